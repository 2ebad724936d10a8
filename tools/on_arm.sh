#!/bin/sh
# Run a command with this tree on an emulated 64-bit ARM processor (Cortex-A72, as in a Raspberry Pi 4). It tells whether
# things work there, not how fast. As root on Debian or a relative, after `make env`, with the packages debootstrap, proot
# and qemu-user 10 (7.2 crashes in ONNX Runtime; another one: QEMU=/path/to/qemu-aarch64). Neither binfmt nor containers.
#
#   tools/on_arm.sh python3 -m edge_dac device
#   tools/on_arm.sh python3 -m pytest -q tests/lowerings
set -eu

tree=$(cd "$(dirname "$0")/.." && pwd)
root=${ARM_ROOT:-$tree/build/arm}
qemu=${QEMU:-$(command -v qemu-aarch64 || command -v qemu-aarch64-static)}
pip="$tree/.venv/bin/python -m pip install -q --target $root/packages"

if [ ! -e "$root/ready" ]; then
    debootstrap --foreign --arch=arm64 --variant=minbase --include=python3 bookworm "$root"
    for package in "$root"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$root"; done
    mkdir -p "$root/tree"
    platforms=$(for glibc in 17 27 28 34; do printf -- '--platform manylinux_2_%s_aarch64 ' $glibc; done)
    requirements=$("$tree/.venv/bin/python" - "$tree/pyproject.toml" <<'PYTHON'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    project = tomllib.load(file)["project"]
optional = project["optional-dependencies"]
print(*(r for r in [*project["dependencies"], *optional["discovery"], *optional["test"]] if not r.startswith("edge-dac")))
PYTHON
    )
    # shellcheck disable=SC2086 # several words each
    $pip --only-binary=:all: --python-version 3.11 --platform manylinux2014_aarch64 $platforms $requirements
    $pip --no-deps "$tree" # for its metadata; the code comes from the tree
    touch "$root/ready"
fi

exec proot -q "$qemu -cpu cortex-a72" -r "$root" -b "$tree:/tree" -b /proc -b /dev -b /sys -b /tmp \
    -w /tree env -i HOME=/root PATH=/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/tree:/tree/service:/packages "$@"
