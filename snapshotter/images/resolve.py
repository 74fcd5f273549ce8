"""From a reference, or from bytes, to the manifest of the model they stand for on this machine."""

from __future__ import annotations

from collections.abc import Callable

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import NotAModel
from snapshotter.artifact.manifest import Index, Manifest, choose, is_model, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.platform import host_platform
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference


def model_manifest(
    raw: bytes, digest: Digest, read: Callable[[Digest], bytes | None]
) -> Manifest | None:
    """The model's manifest that ``raw`` is, or as an index leads to; None when it is no model.

    ``read`` brings the manifest an index lists, or None where it is not to be had.
    Raises :class:`ArtifactError`, also for an index without this machine's platform.
    """
    document = parse(raw, digest)
    if isinstance(document, Index):
        chosen = choose(document, host_platform())
        listed = read(chosen.digest)
        if listed is None:
            return None
        document = parse(listed, chosen.digest)
    return document if isinstance(document, Manifest) and is_model(document) else None


def resolve_model(reference: Reference, registry: Registry) -> tuple[ModelRef, Manifest]:
    """The model a reference names in its registry.

    Raises :class:`ArtifactError` when it is no model or not for this platform, and
    :class:`RegistryError`.
    """
    descriptor, raw = registry.manifest(reference, blobs_follow=True)
    manifest = model_manifest(
        raw,
        descriptor.digest,
        lambda digest: registry.manifest(reference.with_digest(digest))[1],
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
