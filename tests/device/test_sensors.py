from pathlib import Path

import pytest

from edge_dac.device.sensors import Sensors, cgroup_memory_limit_bytes


@pytest.fixture
def device(tmp_path):
    """Writes files of a made-up device: ``device({"sys/...": "text"})`` gives its root."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


def test_bare_device_reads_as_unknown(tmp_path):
    reading = Sensors(tmp_path).read()
    assert (reading.temperature_c, reading.frequency_mhz, reading.available_memory_bytes) == (None, None, None)
    assert reading.throttle_flags is None
    assert reading.throttled is None


def test_cpu_temperature_wins_over_hotter_disk(device):
    root = device(
        {
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "61500\n",
            "sys/class/hwmon/hwmon1/name": "nvme\n",
            "sys/class/hwmon/hwmon1/temp1_input": "83000\n",
        }
    )
    assert Sensors(root).read().temperature_c == 61.5


@pytest.mark.parametrize("text", ["-274000", "4294967295", "n/a", ""])
def test_absurd_temperature_is_unknown(device, text):
    root = device({"sys/class/thermal/thermal_zone0/type": "cpu", "sys/class/thermal/thermal_zone0/temp": text})
    assert Sensors(root).read().temperature_c is None


def test_frequency_is_the_mean_of_the_cpus(device):
    root = device(
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000",
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "600000",
        }
    )
    assert Sensors(root).read().frequency_mhz == 1050.0


def test_frequency_falls_back_to_cpuinfo(device):
    assert (
        Sensors(device({"proc/cpuinfo": "cpu MHz\t\t: 2400.5\ncpu MHz\t\t: 2400.5\n"})).read().frequency_mhz == 2400.5
    )


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("0", ()),
        ("50005", ("throttled", "under_voltage")),
        ("0x2", ("frequency_capped",)),
        ("e0008", ("soft_temperature_limit",)),
        ("garbage", None),
    ],
)
def test_raspberry_pi_firmware_flags(device, text, flags):
    root = device({"sys/devices/platform/soc/soc:firmware/get_throttled": text})
    assert Sensors(root).read().throttle_flags == flags


def test_vcgencmd_answers_where_the_kernel_does_not(tmp_path):
    command = tmp_path / "vcgencmd"
    command.write_text("#!/bin/sh\necho throttled=0x50004\n")
    command.chmod(0o755)
    assert Sensors(tmp_path, vcgencmd=str(command)).read().throttle_flags == ("throttled",)
    assert Sensors(tmp_path, vcgencmd=str(tmp_path / "missing")).read().throttle_flags is None


def test_kernel_cooling_and_lowered_frequency_limit(device):
    root = device(
        {
            "sys/class/thermal/cooling_device0/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device0/cur_state": "2",
            "sys/class/thermal/cooling_device1/type": "pwm-fan",
            "sys/class/thermal/cooling_device1/cur_state": "1",
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "900000",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "1500000",
        }
    )
    reading = Sensors(root).read()
    assert reading.throttle_flags == ("frequency_capped", "thermal_cooling")
    assert reading.throttled


def test_idle_cooling_device_means_not_throttled(device):
    root = device(
        {
            "sys/class/thermal/cooling_device0/type": "Processor",
            "sys/class/thermal/cooling_device0/cur_state": "0",
        }
    )
    assert Sensors(root).read().throttled is False


MEMINFO = "MemTotal:        4000000 kB\nMemAvailable:    3000000 kB\n"


def test_available_memory_without_cgroup_limit(device):
    assert Sensors(device({"proc/meminfo": MEMINFO})).read().available_memory_bytes == 3_000_000 * 1024


def test_available_memory_in_cgroup_v2_counts_ancestors_and_spares_cache(device):
    root = device(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "0::/system.slice/edge-dac.service\n",
            "sys/fs/cgroup/system.slice/memory.max": "1000000",
            "sys/fs/cgroup/system.slice/memory.current": "900000",
            "sys/fs/cgroup/system.slice/memory.stat": "anon 100\ninactive_file 300000\n",
            "sys/fs/cgroup/system.slice/edge-dac.service/memory.max": "max",
        }
    )
    assert Sensors(root).read().available_memory_bytes == 400_000
    assert cgroup_memory_limit_bytes(root) == 1_000_000


def test_cgroup_v1_without_limit_is_unlimited(device):
    root = device(
        {
            "proc/meminfo": MEMINFO,
            "proc/self/cgroup": "4:memory:/pod/abc\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
            "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000",
        }
    )
    assert cgroup_memory_limit_bytes(root) is None
    assert Sensors(root).read().available_memory_bytes == 3_000_000 * 1024
