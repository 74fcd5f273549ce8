"""What refers to a manifest: signatures, SBOMs, chunk lists. OCI distribution-spec v1.1,
sections "Listing Referrers", "Referrers Tag Schema" and "Pushing Manifests with Subject".

A registry without the referrers API answers it with 404, and then the list is an index
under a tag made of the subject's digest, which whoever pushes a referrer keeps up to date.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode, urljoin, urlsplit

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, algorithm, digest_of, encoded
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Index, parse
from snapshotter.artifact.mediatypes import OCI_INDEX, OCI_MANIFEST
from snapshotter.registry.errors import BadAnswer, NotFound
from snapshotter.registry.reference import Reference

EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
"""The config of an artifact that has none, OCI image-spec ``manifest.md``."""
MAX_PAGES = 32
"""Pages of the referrers API that are read."""
MAX_REFERRERS = 4096


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of the referrers API, and where the next is (empty: nowhere)."""

    raw: bytes
    next: str = ""


class Source(Protocol):
    """What is asked of a :class:`~snapshotter.registry.client.Registry`."""

    def referrers_page(self, ref: Reference, query: str) -> Page | None: ...
    def manifest(self, ref: Reference) -> tuple[Descriptor, bytes]: ...
    def has_blob(self, ref: Reference, digest: Digest) -> bool: ...
    def upload_blob(self, ref: Reference, digest: Digest, size: int, body: Any) -> None: ...
    def put_manifest(self, ref: Reference, media_type: str, raw: bytes) -> Digest: ...


def fallback_tag(subject: Digest) -> str:
    """The tag of the index that lists referrers where the registry has no API for it."""
    return f"{algorithm(subject)[:32]}-{encoded(subject)[:64]}"


def list_referrers(
    registry: Source, subject: Reference, *, artifact_types: Collection[str] = ()
) -> list[Descriptor]:
    """What refers to the manifest ``subject.digest``, of ``artifact_types`` if any are given.

    ``artifact_type`` and ``annotations`` of each descriptor are as the registry says;
    nothing has been checked but its form. At most :data:`MAX_REFERRERS`, from the API or
    from the fallback tag. Raises :class:`RegistryError`; a manifest nobody refers to, or
    that the registry does not have, gives an empty list.
    """
    if subject.digest is None:
        raise ValueError(f"{subject} names no digest")
    found = _from_api(registry, subject, artifact_types)
    if found is None:
        found = _from_tag(registry, subject)
    chosen = [
        entry for entry in found if not artifact_types or entry.artifact_type in artifact_types
    ]
    return list({entry.digest: entry for entry in chosen}.values())[:MAX_REFERRERS]


def publish(
    registry: Source,
    subject: Descriptor,
    place: Reference,
    *,
    artifact_type: str,
    layers: list[tuple[str, bytes]],
) -> Digest:
    """Push an artifact that refers to ``subject`` in the repository of ``place``.

    ``layers`` are media types and contents. Doing it again changes nothing. Returns the
    digest of its manifest; raises :class:`RegistryError`.
    """
    for _, content in [(EMPTY_TYPE, EMPTY), *layers]:
        digest = digest_of(content)
        if not registry.has_blob(place, digest):
            registry.upload_blob(place, digest, len(content), lambda raw=content: iter((raw,)))
    raw = _encode(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": _described(EMPTY_TYPE, EMPTY),
            "layers": [_described(media_type, content) for media_type, content in layers],
            "subject": {
                "mediaType": subject.media_type,
                "digest": subject.digest,
                "size": subject.size,
            },
        }
    )
    digest = digest_of(raw)
    registry.put_manifest(place.with_digest(digest), OCI_MANIFEST, raw)
    about = place.with_digest(subject.digest)
    if registry.referrers_page(about, "") is None:
        _add_to_tag(registry, about, Descriptor(OCI_MANIFEST, digest, len(raw)), artifact_type)
    return digest


def _from_api(
    registry: Source, subject: Reference, artifact_types: Collection[str]
) -> list[Descriptor] | None:
    one = [*artifact_types] if len(artifact_types) == 1 else []
    query = urlencode([("artifactType", name) for name in one])
    found: list[Descriptor] = []
    for _ in range(MAX_PAGES):
        page = registry.referrers_page(subject, query)
        if page is None:
            return None
        found += _entries(page.raw, subject)
        if not page.next or len(found) >= MAX_REFERRERS:
            break
        query = urlsplit(urljoin("/", page.next)).query
    return found


def _from_tag(registry: Source, subject: Reference) -> list[Descriptor]:
    raw = _tagged(registry, subject)
    return _entries(raw, subject) if raw is not None else []


def _tagged(registry: Source, subject: Reference) -> bytes | None:
    assert subject.digest is not None
    tag = Reference(subject.registry, subject.repository, fallback_tag(subject.digest), None)
    try:
        return registry.manifest(tag)[1]
    except NotFound:
        return None


def _entries(raw: bytes, subject: Reference) -> list[Descriptor]:
    try:
        index = parse(raw)
    except ArtifactError as error:
        raise BadAnswer(f"the referrers of {subject}: {error}", host=subject.registry) from None
    if not isinstance(index, Index):
        raise BadAnswer(
            f"the referrers of {subject}: expected an index, got a manifest",
            host=subject.registry,
        )
    return list(index.manifests)


def _add_to_tag(
    registry: Source, subject: Reference, entry: Descriptor, artifact_type: str
) -> None:
    """Append to what the tag lists; two who do so at once may lose one, as the spec says."""
    assert subject.digest is not None
    raw = _tagged(registry, subject)
    document: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}
    if raw is not None:
        if any(known.digest == entry.digest for known in _entries(raw, subject)):
            return
        document = json.loads(raw)
    document["manifests"].append(
        {
            "mediaType": entry.media_type,
            "digest": entry.digest,
            "size": entry.size,
            "artifactType": artifact_type,
        }
    )
    tag = Reference(subject.registry, subject.repository, fallback_tag(subject.digest), None)
    registry.put_manifest(tag, OCI_INDEX, _encode(document))


def _described(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(content), "size": len(content)}


def _encode(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
