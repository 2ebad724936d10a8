"""Make a virtual environment with pip, also where Debian left out ``ensurepip``: ``bootstrap.py DIRECTORY``.

Debian splits ``ensurepip`` into ``python3-venv``, which a fresh machine lacks. Then pip comes as a wheel from the
package index (PIP_INDEX_URL, or PyPI) and installs itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path


def main(directory: str) -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever types `make` may have an older one
        sys.exit(f"edge-dac needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON=/path/to/python")
    python = Path(directory) / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    if subprocess.run([python, "-m", "ensurepip", "-q"], capture_output=True, check=False).returncode == 0:
        return
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
    request = urllib.request.Request(f"{index}/pip/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request) as answer:
        files = json.load(answer)["files"]
    wheels = [entry for entry in files if entry["filename"].endswith("-none-any.whl") and not entry.get("yanked")]
    wheel = max(wheels, key=lambda entry: entry.get("upload-time", ""))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / wheel["filename"]
        urllib.request.urlretrieve(urllib.request.urljoin(f"{index}/pip/", wheel["url"]), path)
        subprocess.run([python, f"{path}/pip", "install", "-q", "--no-index", str(path)], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
