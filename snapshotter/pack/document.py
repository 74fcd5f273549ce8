"""The JSON of an artifact: config and manifest, byte for byte the same for the same model. Pure.

model-spec ``docs/config.md`` with its JSON schema, and ``docs/spec.md``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snapshotter.artifact.config import ModelFacts
from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.mediatypes import (
    FILE_METADATA,
    FILEPATH,
    MODEL_CONFIG,
    MODEL_MANIFEST,
    OCI_MANIFEST,
    Category,
    Encoding,
)

_NO_TIME = "0001-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class Layer:
    """One file of a model and the blob it is in."""

    path: str
    category: Category
    encoding: Encoding
    digest: Digest
    size: int
    """Of the blob."""
    file_size: int
    mode: int
    """Permission bits."""

    @property
    def media_type(self) -> str:
        return f"application/vnd.cncf.model.{self.category}.v1.{self.encoding}"


def config_json(facts: ModelFacts, layers: Sequence[Layer]) -> bytes:
    """The config blob; only what is known is in it."""
    descriptor = {
        "createdAt": facts.created,
        "authors": list(facts.authors),
        "vendor": facts.vendor,
        "family": facts.family,
        "name": facts.name,
        "version": facts.version,
        "title": facts.title,
        "description": facts.description,
        "docURL": facts.doc_url,
        "sourceURL": facts.source_url,
        "revision": facts.revision,
        "licenses": list(facts.licenses),
    }
    config = {
        "architecture": facts.architecture,
        "format": facts.format,
        "paramSize": facts.param_size,
        "precision": facts.precision,
        "quantization": facts.quantization,
    }
    return _encode(
        {
            "descriptor": {key: value for key, value in descriptor.items() if value},
            "modelfs": {"type": "layers", "diffIds": [layer.digest for layer in layers]},
            "config": {key: value for key, value in config.items() if value},
        }
    )


def manifest_json(config: bytes, layers: Sequence[Layer]) -> bytes:
    """The manifest of ``layers`` in their order."""
    return _encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": MODEL_MANIFEST,
            "config": {
                "mediaType": MODEL_CONFIG,
                "digest": digest_of(config),
                "size": len(config),
            },
            "layers": [_descriptor(layer) for layer in layers],
        }
    )


def _descriptor(layer: Layer) -> dict[str, Any]:
    metadata = {
        "name": layer.path.rpartition("/")[2],
        "mode": layer.mode,
        "uid": 0,
        "gid": 0,
        "size": layer.file_size,
        # A file's time says when it was downloaded, not what it is: with it, no
        # two people could build the same artifact from the same model.
        "mtime": _NO_TIME,
        "typeflag": 0,
    }
    return {
        "mediaType": layer.media_type,
        "digest": layer.digest,
        "size": layer.size,
        "annotations": {
            FILEPATH: layer.path,
            FILE_METADATA: json.dumps(metadata, separators=(",", ":"), ensure_ascii=False),
        },
    }


def _encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
