"""Manifests and archives as producers make them, for the tests of artifact/ and images/."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from typing import Any

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.layers import archives
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.tar import TarIndex, Want, index_tar

WEIGHT_RAW = "application/vnd.cncf.model.weight.v1.raw"
WEIGHT_TAR = "application/vnd.cncf.model.weight.v1.tar"
CONFIG_RAW = "application/vnd.cncf.model.weight.config.v1.raw"
DOC_TAR = "application/vnd.cncf.model.doc.v1.tar"
FILEPATH = "org.cncf.model.filepath"
METADATA = "org.cncf.model.file.metadata+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"


def digest(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def layer(
    data: bytes, path: str | None, media_type: str = WEIGHT_RAW, **annotations: str
) -> dict[str, Any]:
    named = {} if path is None else {FILEPATH: path}
    return {
        "mediaType": media_type,
        "digest": digest(data),
        "size": len(data),
        "annotations": named | annotations,
    }


def manifest_bytes(layers: Sequence[Mapping[str, Any]] | None, **changes: Any) -> bytes:
    fields: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": MODEL_TYPE,
        "config": {"mediaType": MODEL_CONFIG, "digest": digest(b"{}"), "size": 2},
        "layers": layers,
    } | changes
    return json.dumps({k: v for k, v in fields.items() if v is not ...}).encode()


def model(*layers: Mapping[str, Any], **changes: Any) -> Manifest:
    manifest = parse(manifest_bytes(layers, **changes))
    assert isinstance(manifest, Manifest)
    return manifest


def laid_out(manifest: Manifest, *blobs: bytes, rules: Rules = STRICT) -> Layout:
    """The layout, tar layers indexed from ``blobs``."""
    by_digest = {digest(blob): blob for blob in blobs}
    indexes = {
        one.descriptor.digest: index(by_digest[one.descriptor.digest]) for one in archives(manifest)
    }
    return layout(manifest, indexes, rules)


def index(data: bytes, wants: list[Want] | None = None) -> TarIndex:
    """Drive the tar index from ranges of bytes in memory, noting what it wanted."""
    steps = index_tar(len(data))
    try:
        want = next(steps)
        while True:
            assert want.length > 0
            assert want.offset >= 0
            assert want.offset + want.most <= len(data)
            if wants is not None:
                wants.append(want)
            want = steps.send(data[want.offset : want.offset + want.most])
    except StopIteration as done:
        return done.value


def index_stream(data: bytes) -> TarIndex:
    """The same from a stream: what is asked for is all there is, and its end is a surprise."""
    steps = index_tar(None)
    try:
        want = next(steps)
        while True:
            want = steps.send(data[want.offset : want.offset + want.length])
    except StopIteration as done:
        return done.value


def archive(
    files: Mapping[str, bytes | tarfile.TarInfo], format: int = tarfile.PAX_FORMAT
) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                tar.addfile(content)
            elif name.endswith("/"):
                member = tarfile.TarInfo(name)
                member.type = tarfile.DIRTYPE
                tar.addfile(member)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()
