"""From a reference, or from bytes, to the manifest of the model they stand for on this machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import NotAModel
from snapshotter.artifact.manifest import Index, Manifest, choose, is_model, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.platform import host_platform
from snapshotter.registry.reference import Reference


class Manifests(Protocol):
    """What is asked of a :class:`~snapshotter.registry.client.Registry`."""

    def manifest(
        self, ref: Reference, *, blobs_follow: bool = False
    ) -> tuple[Descriptor, bytes]: ...


def model_manifest(
    raw: bytes,
    digest: Digest,
    read: Callable[[Digest], bytes | None],
    platform: Platform | None = None,
) -> Manifest | None:
    """The model's manifest that ``raw`` is, or as an index leads to; None when it is no model.

    ``read`` brings the manifest an index lists, or None where it is not to be had. Without a
    ``platform`` this machine's is meant. Raises :class:`ArtifactError`, also for an index
    that does not have it.
    """
    document = parse(raw, digest)
    if isinstance(document, Index):
        chosen = choose(document, platform or host_platform())
        listed = read(chosen.digest)
        if listed is None:
            return None
        document = parse(listed, chosen.digest)
    return document if isinstance(document, Manifest) and is_model(document) else None


def resolve_model(
    reference: Reference, registry: Manifests, platform: Platform | None = None
) -> tuple[ModelRef, Manifest]:
    """The model a reference names in its registry, of an index that for ``platform``.

    Raises :class:`ArtifactError` when it is no model or not for this platform, and
    :class:`RegistryError`.
    """
    descriptor, raw = registry.manifest(reference, blobs_follow=True)
    manifest = model_manifest(
        raw,
        descriptor.digest,
        lambda digest: registry.manifest(reference.with_digest(digest))[1],
        platform,
    )
    if manifest is None:
        raise NotAModel(
            f"{reference} is no model: expected a ModelPack artifact, found {_kind(raw)}; "
            "pull it with the runtime's own client"
        )
    return ModelRef(reference.registry, reference.repository, manifest.digest), manifest


def _kind(raw: bytes) -> str:
    document = parse(raw)
    if isinstance(document, Index):
        return f"an index of {len(document.manifests)} manifests that are none"
    artifact = f"artifact type {document.artifact_type}, " if document.artifact_type else ""
    return f"{artifact}config {document.config.media_type}"
