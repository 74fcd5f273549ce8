"""Ordinary OCI images, put together by hand: as an archive, or pushed to a registry."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from integration.harness.places import architecture

_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class BytesLayer:
    """An uncompressed layer held in memory."""

    tar: bytes

    def chunks(self) -> Iterator[bytes]:
        yield self.tar


@dataclass(frozen=True)
class FileLayer:
    """An uncompressed layer with one file, read from the disk whenever it is asked for."""

    name: str
    source: Path

    def chunks(self) -> Iterator[bytes]:
        entry = tarfile.TarInfo(self.name)
        entry.mode, entry.size = 0o644, self.source.stat().st_size
        yield entry.tobuf(tarfile.PAX_FORMAT)
        with self.source.open("rb") as content:
            while chunk := content.read(_CHUNK):
                yield chunk
        # The file padded to blocks of 512, and two empty blocks: the end of a tar.
        yield bytes(-entry.size % 512 + 1024)


Layer = BytesLayer | FileLayer


@dataclass(frozen=True)
class Blob:
    """What a descriptor names."""

    media_type: str
    digest: str
    size: int
    content: Layer

    @classmethod
    def of(cls, media_type: str, content: Layer) -> Blob:
        digest, size = hashlib.sha256(), 0
        for chunk in content.chunks():
            digest.update(chunk)
            size += len(chunk)
        return cls(media_type, f"sha256:{digest.hexdigest()}", size, content)

    @property
    def descriptor(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    """An image for this machine's architecture."""

    manifest: Blob
    config: Blob
    layers: Sequence[Blob]

    @classmethod
    def of(cls, layers: Sequence[Layer], process: Mapping[str, Any] | None = None) -> Image:
        """``process`` is the configuration's ``config``: Env, Cmd, ..."""
        blobs = [Blob.of(_LAYER, layer) for layer in layers]
        config = _json_blob(
            _CONFIG,
            {
                "os": "linux",
                "architecture": architecture(),
                "config": dict(process or {}),
                "rootfs": {"type": "layers", "diff_ids": [blob.digest for blob in blobs]},
            },
        )
        manifest = _json_blob(
            _MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": _MANIFEST,
                "config": config.descriptor,
                "layers": [blob.descriptor for blob in blobs],
            },
        )
        return cls(manifest, config, blobs)

    def write(self, archive: Path, name: str) -> None:
        """Write an OCI image layout as a tar, which `ctr images import` reads."""
        entry = self.manifest.descriptor | {"annotations": {"io.containerd.image.name": name}}
        index = {"schemaVersion": 2, "manifests": [entry]}
        with tarfile.open(archive, "w") as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            _add(tar, "index.json", json.dumps(index).encode())
            for blob in (self.manifest, self.config, *self.layers):
                content = b"".join(blob.content.chunks())
                _add(tar, f"blobs/{blob.digest.replace(':', '/')}", content)

    def push(self, registry: str, repository: str, tag: str) -> None:
        """Upload it to the registry (host:port, plain HTTP, nobody asks who we are)."""
        with httpx.Client(base_url=f"http://{registry}/v2/{repository}/", timeout=120) as client:
            for blob in (*self.layers, self.config):
                if client.head(f"blobs/{blob.digest}").status_code == 200:
                    continue
                started = client.post("blobs/uploads/").raise_for_status()
                client.put(
                    httpx.URL(started.headers["location"]).copy_merge_params(
                        {"digest": blob.digest}
                    ),
                    content=blob.content.chunks(),
                    headers={
                        "content-length": str(blob.size),
                        "content-type": "application/octet-stream",
                    },
                ).raise_for_status()
            client.put(
                f"manifests/{tag}",
                content=b"".join(self.manifest.content.chunks()),
                headers={"content-type": _MANIFEST},
            ).raise_for_status()


def _json_blob(media_type: str, document: Mapping[str, Any]) -> Blob:
    raw = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    return Blob.of(media_type, BytesLayer(raw))


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
