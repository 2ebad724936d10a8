"""What this device is: processor, limits, memory, software. Read once; the governor's readings are in ``sensors``."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_dac.device.sensors import (
    SensorReading,
    Sensors,
    cgroup_directories,
    cgroup_memory_limit_bytes,
    read_int,
    read_memory_info,
    read_text,
)

_ARM_CORES = {
    "0xd03": "Cortex-A53", "0xd04": "Cortex-A35", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72", "0xd09": "Cortex-A73", "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1", "0xd0d": "Cortex-A77", "0xd41": "Cortex-A78", "0xd42": "Cortex-A78AE",
}  # fmt: skip
"""``CPU part`` numbers of implementer 0x41 (Arm's technical reference manuals, register MIDR_EL1)."""

_USEFUL_FEATURES = re.compile(r"sse4_[12]|avx\w*|fma|f16c|amx\w*|neon|asimd\w*|fphp|bf16|i8mm|sve\w*|dcpop|vfpv4")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What this device is. A fact that cannot be read is None.

    Attributes:
        board: name of the board or product, for example ``Raspberry Pi 5 Model B Rev 1.0``.
        cpu_model: name of the processor.
        architecture: as ``uname -m`` says.
        physical_cores, logical_cores: of the machine.
        allowed_cores: CPUs that this process may run on (affinity).
        cpu_quota: CPUs' worth of time that the cgroup grants; None if unlimited.
        frequency_min_mhz, frequency_max_mhz: limits of the hardware.
        frequency_governor: cpufreq policy, for example ``ondemand``.
        memory_total_bytes, memory_limit_bytes: of the machine, and of the cgroup (None if unlimited).
        swap_total_bytes: configured swap.
        isa_features: instruction-set extensions that inference engines use, sorted.
        reading: the sensors at the time of profiling.
    """

    board: str | None
    cpu_model: str
    architecture: str
    physical_cores: int | None
    logical_cores: int
    allowed_cores: int
    cpu_quota: float | None
    frequency_min_mhz: float | None
    frequency_max_mhz: float | None
    frequency_governor: str | None
    memory_total_bytes: int | None
    memory_limit_bytes: int | None
    swap_total_bytes: int | None
    isa_features: tuple[str, ...]
    operating_system: str
    kernel: str
    python_version: str
    onnxruntime_version: str | None
    reading: SensorReading

    @property
    def usable_cores(self) -> int:
        """Whole cores that threads can keep busy: affinity and quota together, at least one."""
        if self.cpu_quota is None:
            return self.allowed_cores
        return max(1, min(self.allowed_cores, int(self.cpu_quota)))

    @property
    def int8_weight_bits(self) -> int:
        """Bits of an 8-bit weight that may be used.

        ONNX Runtime multiplies pairs of 8-bit numbers on x86 without VNNI into sums of 16 bits, which saturate.
        """
        is_x86 = self.architecture in ("x86_64", "AMD64", "i686")
        return 7 if is_x86 and not any("vnni" in feature for feature in self.isa_features) else 8

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change whenever measured latencies stop being valid."""
        identity = [
            self.cpu_model,
            self.architecture,
            self.allowed_cores,
            self.frequency_governor,
            self.cpu_quota,
            self.onnxruntime_version,
        ]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the derived ones included."""
        return {
            **asdict(self),
            "isa_features": list(self.isa_features),
            "reading": self.reading.to_json(),
            "usable_cores": self.usable_cores,
            "fingerprint": self.fingerprint,
        }


def profile_device(root: Path = Path("/")) -> DeviceProfile:
    """Profile this device.

    Args:
        root: where ``proc``, ``sys`` and ``etc`` are found; a test injects a tree of its own.
    """
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    memory = read_memory_info(root)
    frequency = root / "sys/devices/system/cpu/cpu0/cpufreq"
    board = _board(root)
    return DeviceProfile(
        board=board,
        cpu_model=_cpu_model(cpuinfo) or board or platform.machine(),
        architecture=platform.machine(),
        physical_cores=_physical_cores(root),
        logical_cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or os.cpu_count() or 1,
        allowed_cores=len(os.sched_getaffinity(0)),
        cpu_quota=read_cpu_quota(root),
        frequency_min_mhz=_megahertz(frequency / "cpuinfo_min_freq"),
        frequency_max_mhz=_megahertz(frequency / "cpuinfo_max_freq"),
        frequency_governor=read_text(frequency / "scaling_governor") or None,
        memory_total_bytes=memory.get("MemTotal"),
        memory_limit_bytes=cgroup_memory_limit_bytes(root),
        swap_total_bytes=memory.get("SwapTotal"),
        isa_features=_isa_features(cpuinfo),
        operating_system=_operating_system(root),
        kernel=platform.release(),
        python_version=platform.python_version(),
        onnxruntime_version=_package_version("onnxruntime"),
        reading=Sensors(root).read(),
    )


def read_cpu_quota(root: Path) -> float | None:
    """CPUs' worth of time granted by this cgroup and its ancestors, the smallest; None if unlimited."""
    quotas: list[float] = []
    for directory in cgroup_directories(root, "cpu"):
        match = re.fullmatch(r"(\d+) (\d+)", read_text(directory / "cpu.max") or "")
        quota, period = (
            (int(match[1]), int(match[2]))
            if match
            else (read_int(directory / "cpu.cfs_quota_us"), read_int(directory / "cpu.cfs_period_us"))
        )
        if quota is not None and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=None)


def _cpu_model(cpuinfo: str) -> str | None:
    name = re.search(r"^model name\s*:\s*(\S.*)$", cpuinfo, re.MULTILINE)
    if name:
        return name[1].strip()
    parts = sorted(set(re.findall(r"^CPU part\s*:\s*(\w+)", cpuinfo, re.MULTILINE)))
    return " + ".join(_ARM_CORES.get(part, f"ARM part {part}") for part in parts) or None


def _board(root: Path) -> str | None:
    device_tree = read_text(root / "proc/device-tree/model") or read_text(root / "sys/firmware/devicetree/base/model")
    return device_tree or read_text(root / "sys/class/dmi/id/product_name") or None


def _physical_cores(root: Path) -> int | None:
    cores = set()
    for topology in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        core = read_int(topology / "core_id")
        if core is not None:
            cores.add((read_int(topology / "physical_package_id"), core))
    return len(cores) or None


def _megahertz(path: Path) -> float | None:
    kilohertz = read_int(path)
    return kilohertz / 1000 if kilohertz is not None and kilohertz > 0 else None


def _isa_features(cpuinfo: str) -> tuple[str, ...]:
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return tuple(sorted({name for name in line[1].split() if _USEFUL_FEATURES.fullmatch(name)})) if line else ()


def _operating_system(root: Path) -> str:
    release = read_text(root / "etc/os-release") or ""
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', release, re.MULTILINE)
    return name[1] if name else platform.system()


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
