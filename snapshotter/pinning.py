"""`modelpack pin` and `unpin`, in the daemon: from a reference to a pin."""

from __future__ import annotations

from typing import Any

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.manifest import Manifest
from snapshotter.cache.documents import Documents
from snapshotter.cache.pins import Pin, Pins
from snapshotter.cache.store import BlobStore
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.errors import RegistryError
from snapshotter.registry.reference import Reference


class Pinning:
    """Pins models by what people call them. Thread-safe. Raises :class:`ModelpackError`."""

    def __init__(
        self, pins: Pins, documents: Documents, registry: Registry, store: BlobStore
    ) -> None:
        self._pins = pins
        self._documents = documents
        self._registry = registry
        self._store = store

    def pin(self, text: str) -> dict[str, Any]:
        """Keep what the cache has and will have of the model; nothing is fetched for it.

        Asks the registry unless the model is known here by the digest in ``text``.
        """
        reference = Reference.parse(text)
        manifest = self._documents.manifest(reference.digest) if reference.digest else None
        if manifest is None:
            _, manifest = resolve_model(reference, self._registry)
            self._documents.put(manifest.digest, manifest.raw)
        self._pins.add(manifest.digest, str(reference))
        total = sum(self._describe(pin)["size_bytes"] or 0 for pin in self._pins.all())
        return {
            "reference": str(reference),
            "digest": manifest.digest,
            "size_bytes": _size(manifest),
            "pinned_bytes": total,
            "allowed_bytes": self._store.space.allowed,
        }

    def unpin(self, text: str) -> dict[str, Any]:
        """Raises :class:`NotPinned`."""
        try:
            text = str(Reference.parse(text))
        except RegistryError:
            pass  # a bare digest
        return {"unpinned": [self._describe(pin) for pin in self._pins.remove(text)]}

    def describe(self) -> list[dict[str, Any]]:
        """For `modelpack status`; sizes in bytes, null for a manifest that is lost."""
        return [self._describe(pin) for pin in self._pins.all()]

    def _describe(self, pin: Pin) -> dict[str, Any]:
        manifest = self._documents.manifest(pin.digest)
        return {
            "digest": pin.manifest,
            "references": pin.references,
            "since": pin.since,
            "size_bytes": _size(manifest) if manifest is not None else None,
        }


def _size(manifest: Manifest) -> int:
    sizes: dict[Digest, int] = {layer.digest: layer.size for layer in manifest.layers}
    return sum(sizes.values())
