"""Cheap repeated readings of the device: temperature, frequency, throttling, free memory.

Everything is read from ``/proc`` and ``/sys`` below a root that can be injected. Devices differ: a sensor that is
missing, unreadable or absurd reads as None, never as an error, and never as a plausible number.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_PLAUSIBLE_CELSIUS = (-40.0, 150.0)
_CPU_SENSORS = re.compile(r"coretemp|k10temp|zenpower|cpu|soc|x86_pkg|arm|package", re.IGNORECASE)
_CPU_COOLING = re.compile(r"cpufreq|processor", re.IGNORECASE)

PI_THROTTLE_BITS = {0: "under_voltage", 1: "frequency_capped", 2: "throttled", 3: "soft_temperature_limit"}
"""Current-state bits of the Raspberry Pi firmware's ``get_throttled``; bits 16 to 19 are "has happened since boot"."""

_PI_FIRMWARE = "sys/devices/platform/soc/soc:firmware/get_throttled"
_VCGENCMD_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class SensorReading:
    """One look at the device.

    Attributes:
        temperature_c: hottest CPU or SoC sensor, degrees Celsius.
        frequency_mhz: mean current frequency of the CPUs.
        throttle_flags: why the clock is held down right now; None where no source can tell, empty if it is not.
        available_memory_bytes: what can be allocated without swapping, also inside this cgroup.
    """

    temperature_c: float | None
    frequency_mhz: float | None
    throttle_flags: tuple[str, ...] | None
    available_memory_bytes: int | None

    @property
    def throttled(self) -> bool | None:
        """Whether the clock is held down; None if unknown."""
        return None if self.throttle_flags is None else bool(self.throttle_flags)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "throttled": self.throttled}


class Sensors:
    """Reads the sensors of the device below ``root``; safe to call every second."""

    def __init__(self, root: Path = Path("/"), *, vcgencmd: str | None = None) -> None:
        """
        Args:
            root: where ``proc`` and ``sys`` are found.
            vcgencmd: the Raspberry Pi tool, used only where the kernel offers no file; looked up if ``root`` is ``/``.
        """
        self._root = root
        self._vcgencmd = vcgencmd or (shutil.which("vcgencmd") if root == Path("/") else None)

    def read(self) -> SensorReading:
        """Read all sensors once."""
        return SensorReading(
            temperature_c=read_temperature_c(self._root),
            frequency_mhz=read_frequency_mhz(self._root),
            throttle_flags=self._throttle_flags(),
            available_memory_bytes=read_available_memory_bytes(self._root),
        )

    def _throttle_flags(self) -> tuple[str, ...] | None:
        kernel = _cooling_flags(self._root)
        firmware = _parse_pi_flags(read_text(self._root / _PI_FIRMWARE))
        if firmware is None and self._vcgencmd:
            firmware = _parse_pi_flags(_run_vcgencmd(self._vcgencmd))
        if kernel is None and firmware is None:
            return None
        return tuple(sorted({*(kernel or ()), *(firmware or ())}))


def read_text(path: Path) -> str | None:
    """Contents of a small kernel file without the surrounding white space; None if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0 \t\n")
    except OSError:
        return None


def read_int(path: Path) -> int | None:
    """The integer in a small kernel file; None if there is none."""
    text = read_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def read_temperature_c(root: Path) -> float | None:
    """Hottest plausible CPU sensor; of all sensors if none is named as the CPU's."""
    cpu: list[float] = []
    other: list[float] = []
    for name, celsius in _temperatures(root):
        (cpu if _CPU_SENSORS.search(name) else other).append(celsius)
    return max(cpu or other, default=None)


def _temperatures(root: Path) -> Iterator[tuple[str, float]]:
    sources = [
        *((zone, "type", "temp") for zone in (root / "sys/class/thermal").glob("thermal_zone*")),
        *((chip, "name", "temp*_input") for chip in (root / "sys/class/hwmon").glob("hwmon*")),
    ]
    for folder, name_file, pattern in sources:
        name = read_text(folder / name_file) or ""
        for path in folder.glob(pattern):
            millicelsius = read_int(path)
            if millicelsius is not None and _PLAUSIBLE_CELSIUS[0] < millicelsius / 1000 < _PLAUSIBLE_CELSIUS[1]:
                yield name, millicelsius / 1000


def read_frequency_mhz(root: Path) -> float | None:
    """Mean current frequency of the CPUs, from cpufreq or else ``/proc/cpuinfo``."""
    policies = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    kilohertz = [value for path in policies if (value := read_int(path)) is not None and value > 0]
    if kilohertz:
        return sum(kilohertz) / len(kilohertz) / 1000
    cpuinfo = read_text(root / "proc/cpuinfo") or ""
    megahertz = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([0-9.]+)\s*$", cpuinfo, re.MULTILINE)]
    return sum(megahertz) / len(megahertz) if megahertz and min(megahertz) > 0 else None


def _cooling_flags(root: Path) -> set[str] | None:
    """What the kernel's CPU cooling devices and frequency limits say; None if there are none."""
    flags: set[str] = set()
    known = False
    for device in (root / "sys/class/thermal").glob("cooling_device*"):
        state = read_int(device / "cur_state")
        if state is not None and _CPU_COOLING.search(read_text(device / "type") or ""):
            known = True
            if state > 0:
                flags.add("thermal_cooling")
    for policy in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"):
        limit, maximum = read_int(policy / "scaling_max_freq"), read_int(policy / "cpuinfo_max_freq")
        if limit is not None and maximum is not None:
            known = True
            if 0 < limit < maximum:
                flags.add("frequency_capped")
    return flags if known else None


def _parse_pi_flags(text: str | None) -> set[str] | None:
    match = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text or "")
    if match is None:
        return None
    bits = int(match[1], 16)
    return {name for bit, name in PI_THROTTLE_BITS.items() if bits >> bit & 1}


def _run_vcgencmd(command: str) -> str | None:
    try:
        done = subprocess.run(
            [command, "get_throttled"], capture_output=True, text=True, timeout=_VCGENCMD_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def read_memory_info(root: Path) -> dict[str, int]:
    """``/proc/meminfo`` in bytes."""
    text = read_text(root / "proc/meminfo") or ""
    return {name: int(kilobytes) * 1024 for name, kilobytes in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def read_available_memory_bytes(root: Path) -> int | None:
    """``MemAvailable``, or what is left of the cgroup's limit if that is less."""
    available = read_memory_info(root).get("MemAvailable")
    left = cgroup_memory_left_bytes(root)
    return min((value for value in (available, left) if value is not None), default=None)


def cgroup_directories(root: Path, controller: str) -> list[Path]:
    """Directories of this process's cgroup for ``controller`` and all its ancestors, version 2 and version 1.

    In a container the path in ``/proc/self/cgroup`` may be one of the host: ancestors that do not exist read as
    nothing, and the mount point itself is always among them.
    """
    directories: list[Path] = []
    for line in (read_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mount = root / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            mount = root / "sys/fs/cgroup" / controller
        else:
            continue
        directory = mount / path.strip("/")
        directories.append(directory)
        while directory != mount and mount in directory.parents:
            directory = directory.parent
            directories.append(directory)
    return directories


def cgroup_memory_limit_bytes(root: Path) -> int | None:
    """Smallest memory limit of this cgroup and its ancestors; None if unlimited."""
    return min((limit for limit, _ in _cgroup_memory(root)), default=None)


def cgroup_memory_left_bytes(root: Path) -> int | None:
    """Smallest distance to a memory limit of this cgroup and its ancestors; None if unlimited."""
    return min((max(0, limit - used) for limit, used in _cgroup_memory(root) if used is not None), default=None)


def _cgroup_memory(root: Path) -> Iterator[tuple[int, int | None]]:
    total = read_memory_info(root).get("MemTotal")
    for directory in cgroup_directories(root, "memory"):
        for limit_file, usage_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = read_int(directory / limit_file)
            # Version 1 writes "no limit" as a number near 2**63.
            if limit is not None and (total is None or limit < total):
                yield limit, _without_cache(directory, read_int(directory / usage_file))


def _without_cache(directory: Path, used: int | None) -> int | None:
    """Usage less the page cache that the kernel drops when memory is short."""
    if used is None:
        return None
    statistics: dict[str, str] = dict(
        re.findall(r"^(\w+) (\d+)$", read_text(directory / "memory.stat") or "", re.MULTILINE)
    )
    reclaimable = statistics.get("inactive_file", statistics.get("total_inactive_file", "0"))
    return max(0, used - int(reclaimable))
