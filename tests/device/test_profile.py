import dataclasses
import json

import pytest

from edge_dac.device.profile import profile_device, read_cpu_quota

PI_CPUINFO = """processor\t: 0
Features\t: fp asimd evtstrm crc32 cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 1
Features\t: fp asimd evtstrm crc32 cpuid asimdrdm asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


@pytest.fixture
def pi(tmp_path):
    files = {
        "proc/cpuinfo": PI_CPUINFO,
        "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
        "proc/meminfo": "MemTotal:        4000000 kB\nSwapTotal:         99999 kB\n",
        "etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n',
        "sys/devices/system/cpu/cpu0/topology/core_id": "0",
        "sys/devices/system/cpu/cpu0/topology/physical_package_id": "0",
        "sys/devices/system/cpu/cpu1/topology/core_id": "1",
        "sys/devices/system/cpu/cpu1/topology/physical_package_id": "0",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_min_freq": "1500000",
        "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "2400000",
        "proc/self/cgroup": "0::/edge.slice/edge-dac.service\n",
        "sys/fs/cgroup/edge.slice/cpu.max": "150000 100000",
        "sys/fs/cgroup/edge.slice/edge-dac.service/cpu.max": "max 100000",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_raspberry_pi(pi):
    profile = profile_device(pi)
    assert profile.board == "Raspberry Pi 5 Model B Rev 1.0"
    assert profile.cpu_model == "Cortex-A76"
    assert (profile.physical_cores, profile.logical_cores) == (2, 2)
    assert profile.cpu_quota == 1.5
    assert profile.usable_cores == 1
    assert (profile.frequency_min_mhz, profile.frequency_max_mhz) == (1500.0, 2400.0)
    assert profile.frequency_governor == "ondemand"
    assert profile.memory_total_bytes == 4_000_000 * 1024
    assert profile.isa_features == ("asimd", "asimddp", "asimdrdm")
    assert profile.operating_system == "Debian GNU/Linux 12 (bookworm)"


def test_device_that_tells_nothing(tmp_path):
    profile = profile_device(tmp_path)
    assert profile.board is None
    assert profile.physical_cores is None
    assert profile.frequency_governor is None
    assert profile.cpu_quota is None
    assert profile.memory_limit_bytes is None
    assert profile.isa_features == ()
    assert profile.cpu_model
    assert profile.usable_cores >= 1


@pytest.mark.parametrize(
    ("architecture", "features", "bits"),
    [
        ("aarch64", ("asimd", "asimddp"), 8),
        ("x86_64", ("avx2", "avx512_vnni"), 8),
        ("x86_64", ("avx2", "avx_vnni"), 8),
        ("x86_64", ("avx2", "avx512f"), 7),
    ],
)
def test_weights_have_the_bits_that_integer_products_bear(architecture, features, bits):
    assert (
        dataclasses.replace(profile_device(), architecture=architecture, isa_features=features).int8_weight_bits == bits
    )


def test_this_device_as_json():
    values = profile_device().to_json()
    assert json.loads(json.dumps(values)).keys() == values.keys()
    assert values["logical_cores"] >= values["allowed_cores"] >= values["usable_cores"] >= 1
    assert len(values["fingerprint"]) == 12


def test_fingerprint_follows_what_changes_latency_and_nothing_else(pi):
    profile = profile_device(pi)
    hotter = dataclasses.replace(profile, reading=dataclasses.replace(profile.reading, temperature_c=80.0))
    assert hotter.fingerprint == profile.fingerprint
    for change in (
        {"cpu_model": "Cortex-A72"},
        {"allowed_cores": 99},
        {"frequency_governor": "performance"},
        {"cpu_quota": 2.0},
        {"onnxruntime_version": "1.33.0"},
    ):
        assert dataclasses.replace(profile, **change).fingerprint != profile.fingerprint


def test_cpu_quota_of_cgroup_v1(tmp_path):
    cpu = tmp_path / "sys/fs/cgroup/cpu"
    cpu.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpu,cpuacct:/\n1:cpu:/\n")
    (cpu / "cpu.cfs_quota_us").write_text("-1")
    (cpu / "cpu.cfs_period_us").write_text("100000")
    assert read_cpu_quota(tmp_path) is None
    (cpu / "cpu.cfs_quota_us").write_text("50000")
    assert read_cpu_quota(tmp_path) == 0.5
