"""Manifests and indexes: what a registry answers, checked and made into types.

Only structure is checked here, never a JSON schema: producers differ. Whether
the layers of a model can be served is :mod:`.layout`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from snapshotter.artifact.categories import is_weights
from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import Digest, digest_of, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.mediatypes import (
    EMPTY_CONFIG,
    INDEX_TYPES,
    MANIFEST_TYPES,
    MODEL_ARTIFACT_TYPES,
    MODEL_CONFIG_TYPES,
    MODEL_INDEX_TYPES,
    OCI_INDEX,
    OCI_MANIFEST,
    OLLAMA_WEIGHTS,
    says_model,
)
from snapshotter.artifact.metadata import file_name
from snapshotter.artifact.platforms import describe, matches, normalize

MANIFEST_LIMIT = 8 << 20
"""Bytes of the largest manifest or index read."""
LAYER_LIMIT = 16_384
"""Layers of a manifest, manifests of an index."""
_SIZE_LIMIT = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest, OCI image-spec ``manifest.md``. Not yet known to be a model's."""

    digest: Digest
    media_type: str
    artifact_type: str | None
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Index:
    """An image index, OCI image-spec ``image-index.md``."""

    digest: Digest
    media_type: str
    artifact_type: str | None
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str]
    raw: bytes = field(repr=False)


class _Platform(msgspec.Struct):
    os: str = ""
    architecture: str = ""
    variant: str | None = None


class _Descriptor(msgspec.Struct, rename="camel"):
    media_type: str
    digest: str
    size: int
    annotations: dict[str, str] | None = None
    artifact_type: str | None = None
    platform: _Platform | None = None


class _Document(msgspec.Struct, rename="camel"):
    """Manifest and index in one: which of the two it is shows by what it has."""

    schema_version: int = 2
    media_type: str | None = None
    artifact_type: str | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None
    manifests: list[_Descriptor] | None = None
    annotations: dict[str, str] | None = None


def parse(raw: bytes, digest: Digest | None = None) -> Manifest | Index:
    """Read a manifest or an index.

    ``digest`` is what the bytes were asked by, and is verified. Raises
    :class:`ArtifactError`, and nothing else, when the bytes are neither.
    """
    if len(raw) > MANIFEST_LIMIT:
        raise ArtifactError(
            f"manifest {digest or ''} has {len(raw)} bytes: at most {MANIFEST_LIMIT} are read"
        )
    actual = digest_of(raw, like=digest)
    if digest is not None and actual != digest:
        raise ArtifactError(f"manifest {digest} came with other content ({actual}): refused")
    try:
        document = msgspec.json.decode(raw, type=_Document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{actual} is no OCI manifest: {error}") from None
    return _check(document, actual, raw)


def _check(document: _Document, digest: Digest, raw: bytes) -> Manifest | Index:
    if document.schema_version != 2:
        raise ArtifactError(
            f"{digest} is a manifest of schemaVersion {document.schema_version}: only 2 is read"
        )
    media_type = document.media_type or ""
    is_index = document.manifests is not None
    # One document that reads as both shows different content to different
    # clients (GHSA-77vh-xpmg-72qh): refuse it as containerd does.
    if is_index and (document.layers is not None or document.config is not None):
        raise ArtifactError(f"{digest} is ambiguous: it has both manifests and layers or config")
    expected = INDEX_TYPES if is_index else MANIFEST_TYPES
    if media_type and media_type not in expected:
        raise ArtifactError(
            f"{digest} has media type {media_type[:160]!r}: expected one of {', '.join(expected)}"
        )
    if is_index:
        return Index(
            digest=digest,
            media_type=media_type or OCI_INDEX,
            artifact_type=document.artifact_type,
            manifests=_descriptors(document.manifests or (), f"manifest of index {digest}"),
            annotations=document.annotations or {},
            raw=raw,
        )
    if document.config is None:
        raise ArtifactError(f"{digest} is no OCI manifest: it has no config")
    return Manifest(
        digest=digest,
        media_type=media_type or OCI_MANIFEST,
        artifact_type=document.artifact_type,
        config=_descriptor(document.config, f"config of {digest}"),
        layers=_descriptors(document.layers or (), f"layer of {digest}"),
        annotations=document.annotations or {},
        raw=raw,
    )


def _descriptors(items: Sequence[_Descriptor], what: str) -> tuple[Descriptor, ...]:
    if len(items) > LAYER_LIMIT:
        raise ArtifactError(f"too many entries ({len(items)}), at most {LAYER_LIMIT}: {what}")
    return tuple(_descriptor(item, f"{what} number {n}") for n, item in enumerate(items, 1))


def _descriptor(item: _Descriptor, what: str) -> Descriptor:
    if not 0 <= item.size <= _SIZE_LIMIT:
        raise ArtifactError(f"{what} has size {item.size}: expected 0 to 2^63-1")
    try:
        digest = parse_digest(item.digest)
    except ArtifactError as error:
        raise ArtifactError(f"{what}: {error}") from None
    platform = item.platform
    return Descriptor(
        media_type=item.media_type,
        digest=digest,
        size=item.size,
        annotations=item.annotations or {},
        artifact_type=item.artifact_type,
        platform=None
        if platform is None
        else Platform(platform.os, platform.architecture, platform.variant or ""),
    )


def is_model(document: Manifest | Index) -> bool:
    """Whether this is a model.

    Artifact type or config type is enough, some producers set only one. Without either,
    Ollama's models have the config of an ordinary image and layers of their own types; and
    what was pushed by hand with oras has an empty config, and layers of model types or
    named like weights. An index may be one of models without saying so: False then means
    "look at what :func:`choose` gives".
    """
    if isinstance(document, Index):
        return document.artifact_type in MODEL_INDEX_TYPES | MODEL_ARTIFACT_TYPES or any(
            _says_model(entry) for entry in document.manifests
        )
    if (
        document.artifact_type in MODEL_ARTIFACT_TYPES
        or document.config.media_type in MODEL_CONFIG_TYPES
    ):
        return True
    if document.config.media_type == EMPTY_CONFIG:
        return any(
            says_model(layer.media_type) or is_weights(file_name(layer.annotations) or "", 0)
            for layer in document.layers
        )
    return any(layer.media_type in OLLAMA_WEIGHTS for layer in document.layers)


def choose(index: Index, platform: Platform) -> Descriptor:
    """The manifest of ``index`` for ``platform``.

    Models rarely depend on a platform, so it decides only when more than one is
    listed; attestations (platform unknown/unknown) count for nothing. Raises
    :class:`ArtifactError` naming the platforms there are.
    """
    real = [entry for entry in index.manifests if not _is_attestation(entry)]
    real = [entry for entry in real if _says_model(entry)] or real
    if not real:
        raise ArtifactError(f"index {index.digest} lists no manifest that could be a model")
    listed = {normalize(entry.platform) for entry in real if entry.platform is not None}
    if len(listed) <= 1:
        return real[0]
    fitting = [
        (normalize(entry.platform) != normalize(platform), place, entry)
        for place, entry in enumerate(real)
        if entry.platform is not None and matches(entry.platform, platform)
    ]
    if not fitting:
        raise ArtifactError(
            f"index {index.digest} has no manifest for {describe(platform)}: "
            f"it has {', '.join(sorted(describe(p) for p in listed))}; "
            "use a tag that has this platform, or name one manifest by its digest"
        )
    return min(fitting, key=lambda entry: entry[:2])[2]  # an exact variant first


def _says_model(entry: Descriptor) -> bool:
    return entry.artifact_type in MODEL_ARTIFACT_TYPES


def _is_attestation(entry: Descriptor) -> bool:
    if "vnd.docker.reference.type" in entry.annotations:
        return True
    platform = entry.platform
    return platform is not None and "unknown" in (platform.os, platform.architecture)
