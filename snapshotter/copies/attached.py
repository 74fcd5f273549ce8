"""What is attached to a model in its registry: signatures, SBOMs, chunk lists.

OCI referrers, and the tags under which cosign puts what it makes where a registry has no
referrers: ``sha256-<hex>.sig``, ``.att``, ``.sbom``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from snapshotter.artifact.chunks import CHUNK_LIST
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest, algorithm, encoded
from snapshotter.registry.errors import NotFound
from snapshotter.registry.reference import Reference
from snapshotter.registry.referrers import Source as Referrers
from snapshotter.registry.referrers import list_referrers

_TAGS = {"sig": "signature", "att": "attestation", "sbom": "sbom"}
_WORDS = (
    (CHUNK_LIST, "chunk list"),
    ("notary.signature", "signature"),
    ("cosign.artifact.sig", "signature"),
    ("cosign.simplesigning", "signature"),
    ("sigstore.bundle", "signature"),
    ("spdx", "sbom"),
    ("cyclonedx", "sbom"),
    ("sbom", "sbom"),
    ("syft", "sbom"),
    ("in-toto", "attestation"),
    ("signature", "signature"),
)


class Registry(Referrers, Protocol):
    """What is asked of a :class:`~snapshotter.registry.client.Registry`."""

    def resolve(self, ref: Reference) -> Descriptor: ...


@dataclass(frozen=True, slots=True)
class Attached:
    kind: str
    """``signature``, ``sbom``, ``attestation``, ``chunk list``, or ``other``."""
    artifact_type: str
    """As the registry says; empty where it says nothing."""
    digest: Digest
    size: int
    """Of its manifest, in bytes."""
    to: Digest
    """What it is attached to: the manifest, or the index the model was found by."""
    tag: str = ""
    """The tag it was found under, where there is no other way."""


def attached(registry: Registry, place: Reference, to: Digest) -> Iterator[Attached]:
    """What is attached to the manifest or index ``to`` in the repository of ``place``.

    Nothing of it was verified. Raises :class:`RegistryError`.
    """
    subject = place.with_digest(to)
    for entry in list_referrers(registry, subject):
        said = entry.artifact_type or ""
        yield Attached(kind_of(said), said, entry.digest, entry.size, to)
    for suffix, kind in _TAGS.items():
        tag = f"{algorithm(to)}-{encoded(to)}.{suffix}"
        try:
            found = registry.resolve(Reference(place.registry, place.repository, tag, None))
        except NotFound:
            continue
        yield Attached(kind, "", found.digest, found.size, to, tag)


def kind_of(artifact_type: str) -> str:
    """What an artifact type means, by the words in it: there is no list of them."""
    text = artifact_type.lower()
    return next((kind for word, kind in _WORDS if word in text), "other")
