"""The store of operating points: content-addressed, atomic, verified when read.

Layout below the root, all of it private to the user::

    points/<digest>/model.onnx    the operating point, loadable by ONNX Runtime
    points/<digest>/point.json    plan, library versions, digest and size of model.onnx
    incoming/                     entries being written; moved to points/ by one rename
    damaged/                      entries that failed verification, kept for a look

An entry appears by one rename of a synced directory, so that it is whole or absent after a power cut. Its name is the
sha256 of ``point.json``, which in turn holds the sha256 of ``model.onnx``: a flipped bit in either is found.
Any number of processes may read and put; only the owner (the daemon) calls :meth:`recover` and :meth:`prune`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_dac.artifacts.durable import make_private_directory, sync_directory, write_synced
from edge_dac.errors import ArtifactError
from edge_dac.planning.plan import Plan

_FORMAT = 1
_MODEL = "model.onnx"
_POINT = "point.json"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_DAMAGED_KEPT = 4


@dataclass(frozen=True, slots=True)
class StoredPoint:
    """One operating point in the store.

    Attributes:
        digest: sha256 over model, plan and library versions, hex; the point's name.
        model_path: the ONNX file.
        model_sha256: its sha256, hex.
        size_bytes: its size.
        plan: what it was made by.
        versions: versions of the libraries that made and measured it.
    """

    digest: str
    model_path: Path
    model_sha256: str
    size_bytes: int
    plan: Plan
    versions: Mapping[str, str]


class ArtifactStore:
    """Operating points on disk."""

    def __init__(self, root: Path) -> None:
        self._points = root / "points"
        self._incoming = root / "incoming"
        self._damaged = root / "damaged"
        for directory in (root, self._points, self._incoming, self._damaged):
            make_private_directory(directory)

    def put(self, model: bytes, plan: Plan, versions: Mapping[str, str]) -> StoredPoint:
        """Store an operating point; it is durable when this returns. Storing the same one again changes nothing.

        Raises:
            ArtifactError: the disk is full or cannot be written.
        """
        model_sha256 = hashlib.sha256(model).hexdigest()
        record = _encode(
            {
                "format": _FORMAT,
                "model_sha256": model_sha256,
                "size_bytes": len(model),
                "plan": plan.to_json(),
                "versions": dict(versions),
            }
        )
        digest = hashlib.sha256(record).hexdigest()
        target = self._points / digest
        if not target.is_dir():
            try:
                self._write_entry(target, model, record)
            except OSError as error:
                raise ArtifactError(f"operating point {digest[:12]}: cannot be stored: {error.strerror}") from error
        return StoredPoint(digest, target / _MODEL, model_sha256, len(model), plan, dict(versions))

    def _write_entry(self, target: Path, model: bytes, record: bytes) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=f"{target.name[:12]}-", dir=self._incoming))
        try:
            write_synced(temporary / _MODEL, model)
            write_synced(temporary / _POINT, record)
            sync_directory(temporary)
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():  # else another process stored the same point first
                    raise
            sync_directory(self._points)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def get(self, digest: str) -> StoredPoint:
        """The operating point ``digest``, every byte of it verified; marks it as used now.

        Raises:
            ArtifactError: it is absent, or damaged (then it has been set aside).
        """
        point = self.look_up(digest)
        try:
            with point.model_path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ArtifactError(f"operating point {digest[:12]}: cannot be read: {error.strerror}") from error
        if found != point.model_sha256:
            raise self._set_aside(digest, f"{_MODEL} has sha256 {found[:12]}, expected {point.model_sha256[:12]}")
        os.utime(self._points / digest)
        return point

    def points(self, model_digest: str | None = None) -> list[StoredPoint]:
        """All readable points (of one original model), least recently used first. Model bytes are not verified."""
        return [point for point in self._iterate() if model_digest in (None, point.plan.model_digest)]

    def verify(self) -> list[str]:
        """Verify every byte of every entry; damaged ones are set aside. Returns one line for each of them."""
        reports = []
        for digest in self._digests():
            try:
                self.get(digest)
            except ArtifactError as error:
                reports.append(str(error))
        return reports

    def recover(self) -> None:
        """Drop what an interrupted ``put`` or ``prune`` left behind. Only while no other process writes."""
        for entry in self._incoming.iterdir():
            shutil.rmtree(entry, ignore_errors=True)

    def prune(self, *, max_bytes: int, keep: Collection[str]) -> list[str]:
        """Remove least recently used points until at most ``max_bytes`` remain; never those in ``keep``.

        Returns:
            The digests that were removed.
        """
        points = list(self._iterate())
        total = sum(point.size_bytes for point in points)
        removed = []
        for point in points:
            if total <= max_bytes:
                break
            if point.digest not in keep:
                self._remove(point.digest)
                total -= point.size_bytes
                removed.append(point.digest)
        return removed

    def _remove(self, digest: str) -> None:
        # Renamed first: a reader sees the whole entry or none.
        doomed = self._incoming / f"removed-{digest}"
        shutil.rmtree(doomed, ignore_errors=True)
        (self._points / digest).rename(doomed)
        sync_directory(self._points)
        shutil.rmtree(doomed, ignore_errors=True)

    def _digests(self) -> list[str]:
        """Names of the entries, least recently used first."""
        entries = [entry for entry in self._points.iterdir() if _DIGEST.fullmatch(entry.name)]
        return [entry.name for entry in sorted(entries, key=lambda entry: (entry.stat().st_mtime_ns, entry.name))]

    def _iterate(self) -> Iterator[StoredPoint]:
        for digest in self._digests():
            try:
                yield self.look_up(digest)
            except ArtifactError:
                continue  # set aside by look_up; `verify` and `get` report it

    def look_up(self, digest: str) -> StoredPoint:
        """The operating point ``digest``; its record is verified, of the model only the size.

        Raises:
            ArtifactError: it is absent, or damaged (then it has been set aside).
        """
        directory = self._points / digest
        if not _DIGEST.fullmatch(digest) or not directory.is_dir():
            raise ArtifactError(f"operating point {digest[:12]}: not in the store")
        try:
            record = (directory / _POINT).read_bytes()
            size_bytes = (directory / _MODEL).stat().st_size
        except OSError as error:
            raise self._set_aside(digest, f"cannot be read: {error.strerror}") from error
        if hashlib.sha256(record).hexdigest() != digest:
            raise self._set_aside(digest, f"{_POINT} does not have the digest it is named by")
        values = json.loads(record)
        if values["format"] != _FORMAT:
            raise ArtifactError(f"operating point {digest[:12]}: format {values['format']}, expected {_FORMAT}")
        if size_bytes != values["size_bytes"]:
            raise self._set_aside(digest, f"{_MODEL} has {size_bytes} bytes, expected {values['size_bytes']}")
        try:
            plan = Plan.from_json(values["plan"])
        except (TypeError, KeyError, ValueError) as error:
            raise ArtifactError(f"operating point {digest[:12]}: its plan was written by another version") from error
        return StoredPoint(digest, directory / _MODEL, values["model_sha256"], size_bytes, plan, values["versions"])

    def _set_aside(self, digest: str, why: str) -> ArtifactError:
        for old in sorted(self._damaged.iterdir(), key=lambda entry: entry.stat().st_mtime_ns)[: -_DAMAGED_KEPT + 1]:
            shutil.rmtree(old, ignore_errors=True)
        target = self._damaged / digest
        shutil.rmtree(target, ignore_errors=True)
        (self._points / digest).rename(target)
        sync_directory(self._points)
        return ArtifactError(f"operating point {digest[:12]}: {why}; set aside as damaged")


def _encode(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()
