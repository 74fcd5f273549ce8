"""Stubs on disk: clients ask for their blobs again long after a restart.

One directory for each stub, named by its manifest's digest, written beside and
renamed into place. What is found broken is dropped: it is made again when its
tag is pulled again.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from pathlib import Path

import structlog

from snapshotter.artifact.digest import Digest, digest_of, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.artifact.marker import ModelRef, decode_marker, encode_marker
from snapshotter.artifact.mediatypes import OCI_MANIFEST
from snapshotter.cache.durable import sync_directory
from snapshotter.images.errors import ImageError
from snapshotter.images.stub import StubImage

log = structlog.get_logger(__name__)

_MANIFEST, _CONFIG, _LAYER, _MARKER = "manifest.json", "config.json", "layer.tar", "model.json"
_TEMPORARY = ".new-"
_BLOB_LIMIT = 1 << 20


class StubStore:
    """Thread-safe. Memory: a few hundred bytes a stub, the bytes stay on disk."""

    def __init__(self, root: Path) -> None:
        """Open or create ``root``; :class:`ImageError` when that cannot be done."""
        self._root = root
        self._lock = threading.Lock()
        self._paths: dict[Digest, tuple[str, Path]] = {}
        self._models: set[Digest] = set()
        self._repositories: set[tuple[str, str]] = set()
        try:
            root.mkdir(parents=True, exist_ok=True)
            found = sorted(root.iterdir())
        except OSError as error:
            raise ImageError(
                f"cannot keep stub images in {root}: {error.strerror}; set root to a directory "
                "that can be written"
            ) from None
        for directory in found:
            self._load(directory)

    def add(self, model: ModelRef, stub: StubImage) -> None:
        """Keep a stub durably; nothing to do when it is there already."""
        directory = self._root / encoded(stub.manifest.digest)
        with self._lock:
            if stub.manifest.digest in self._paths:
                return
            try:
                self._write(directory, model, stub)
            except OSError as error:
                raise ImageError(
                    f"cannot keep the stub image of {model} in {self._root}: {error.strerror}"
                ) from None
            self._remember(directory, model, stub.config.digest, stub.layer.digest)
        log.info("stub image made", model=str(model), digest=stub.manifest.digest)

    def find(self, digest: Digest) -> tuple[str, bytes] | None:
        """Media type (empty but for manifests) and bytes of a stub's blob, which are right."""
        with self._lock:
            media_type, path = self._paths.get(digest, ("", None))
        if path is None:
            return None
        try:
            data = path.read_bytes()
        except OSError as error:
            log.warning("stub image lost", path=str(path), error=error.strerror)
            return None
        if digest_of(data, like=digest) != digest:
            log.warning("stub image damaged", path=str(path), expected=digest)
            return None
        return media_type, data

    def is_model(self, digest: Digest) -> bool:
        """Whether ``digest`` is the manifest of a model that has a stub here."""
        with self._lock:
            return digest in self._models

    def holds_models(self, registry: str, repository: str) -> bool:
        """Whether a model was ever found in this repository."""
        with self._lock:
            return (registry, repository) in self._repositories

    def _write(self, directory: Path, model: ModelRef, stub: StubImage) -> None:
        temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self._root))
        try:
            for name, data in (
                (_MANIFEST, stub.manifest_bytes),
                (_CONFIG, stub.config_bytes),
                (_LAYER, stub.layer_bytes),
                (_MARKER, encode_marker(model)),
            ):
                with open(temporary / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            sync_directory(temporary)
            temporary.rename(directory)
            sync_directory(self._root)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def _load(self, directory: Path) -> None:
        if directory.name.startswith(_TEMPORARY):
            shutil.rmtree(directory, ignore_errors=True)
            return
        try:
            manifest = parse(_read(directory / _MANIFEST))
            if not isinstance(manifest, Manifest) or encoded(manifest.digest) != directory.name:
                raise ArtifactError("its manifest is another")
            layer = manifest.layers[0].digest
            for name, digest in ((_CONFIG, manifest.config.digest), (_LAYER, layer)):
                if digest_of(_read(directory / name), like=digest) != digest:
                    raise ArtifactError(f"{name} has other content than {digest}")
            model = decode_marker(_read(directory / _MARKER))
        except (OSError, ArtifactError, IndexError) as error:
            log.warning("broken stub image dropped", path=str(directory), error=str(error))
            if directory.is_dir():
                shutil.rmtree(directory, ignore_errors=True)
            return
        self._remember(directory, model, manifest.config.digest, layer)

    def _remember(self, directory: Path, model: ModelRef, config: Digest, layer: Digest) -> None:
        manifest = Digest(f"sha256:{directory.name}")
        self._paths[manifest] = (
            OCI_MANIFEST,
            directory / _MANIFEST,
        )
        self._paths[config] = ("", directory / _CONFIG)
        self._paths[layer] = ("", directory / _LAYER)
        self._models.add(model.digest)
        self._repositories.add((model.registry, model.repository))


def _read(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(_BLOB_LIMIT)
