"""A model whose layers are archives, compressed in any of the ways the specification has."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zstandard

from snapshotter.artifact.digest import digest_of
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

_MODEL = "application/vnd.cncf.model."
_FRAME = 1 << 20
FORMS = ("tar", "tar+gzip", "tar+zstd", "tar+zstd-seekable")


@dataclass(frozen=True)
class Packed:
    reference: str
    files: Mapping[str, bytes]
    size: int
    """Bytes of all layers."""


def push_packed(host: str, form: str, *, size: int = 24 << 20, apart: bool = False) -> Packed:
    """Push two layers of ``form``: of weights, of which ``size`` bytes, and of the rest.

    ``apart``: each file of weights in a layer of its own that says so, as modctl has it.
    """
    files = {
        "weights/model-1.safetensors": os.urandom(size // 2),
        "weights/model-2.safetensors": os.urandom(size // 2),
        "config.json": b'{"model_type": "test"}',
        "docs/README.md": b"# A model\n" * 1000,
    }
    weights = {name: data for name, data in files.items() if name.startswith("weights/")}
    rest = {name: data for name, data in files.items() if name not in weights}
    encoding = form.removesuffix("-seekable")
    reference = Reference.parse(f"{host}/packed/{form.replace('+', '-')}:1")
    registry = Registry(RegistryOptions(certs_d=()))
    layers, diff_ids, total = [], [], 0
    try:
        of_weights = [{name: data} for name, data in weights.items()] if apart else [weights]
        for members in (*of_weights, rest):
            content = _tar(members)
            data = _compressed(content, form)
            category = "weight.config" if members is rest else "weight"
            layer = _pushed(registry, reference, f"{_MODEL}{category}.v1.{encoding}", data)
            if len(members) == 1:
                layer["annotations"] = _said_of(*next(iter(members.items())))
            layers.append(layer)
            diff_ids.append(digest_of(content))
            total += len(data)
        config = json.dumps({"modelfs": {"type": "layers", "diffIds": diff_ids}}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": f"{_MODEL}manifest.v1+json",
            "config": _pushed(registry, reference, f"{_MODEL}config.v1+json", config),
            "layers": layers,
        }
        registry.put_manifest(reference, str(manifest["mediaType"]), json.dumps(manifest).encode())
    finally:
        registry.close()
    return Packed(str(reference), files, total)


def _pushed(
    registry: Registry, reference: Reference, media_type: str, data: bytes
) -> dict[str, Any]:
    digest = digest_of(data)
    registry.upload_blob(reference, digest, len(data), lambda: iter([data]))
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


def _said_of(name: str, data: bytes) -> dict[str, str]:
    said = {"name": name.rpartition("/")[2], "size": len(data), "typeflag": 0}
    return {
        "org.cncf.model.filepath": name,
        "org.cncf.model.file.metadata+json": json.dumps(said),
    }


def _tar(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _compressed(content: bytes, form: str) -> bytes:
    if form == "tar+gzip":
        return gzip.compress(content, compresslevel=1, mtime=0)
    if form == "tar+zstd":
        return zstandard.ZstdCompressor(level=1).compress(content)
    if form == "tar+zstd-seekable":
        pieces = [content[at : at + _FRAME] for at in range(0, len(content), _FRAME)]
        frames = [zstandard.ZstdCompressor(level=1).compress(piece) for piece in pieces]
        table = b"".join(
            struct.pack("<II", len(frame), len(piece))
            for frame, piece in zip(frames, pieces, strict=True)
        ) + struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
        return b"".join(frames) + struct.pack("<II", 0x184D2A5E, len(table)) + table
    return content
