"""One model in several registries: where else the bytes of a blob may be had."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable

from snapshotter.artifact.digest import Digest
from snapshotter.registry.blobs import BlobOrigin, RangeBody
from snapshotter.registry.errors import Busy, RegistryError

Place = tuple[str, str]
"""Registry and repository."""
_DIGESTS = 1 << 16
_PLACES = 8


class Places:
    """Places of blobs, as far as somebody told. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Digest, dict[Place, None]] = OrderedDict()

    def add(self, place: Place, digests: Iterable[Digest]) -> None:
        """The latest 8 places of a blob are kept."""
        with self._lock:
            for digest in digests:
                known = self._known.setdefault(digest, {})
                self._known.move_to_end(digest)
                known.pop(place, None)
                known[place] = None
                if len(known) > _PLACES:
                    del known[next(iter(known))]
            while len(self._known) > _DIGESTS:
                self._known.popitem(last=False)

    def of(self, digest: Digest) -> list[Place]:
        """The latest first."""
        with self._lock:
            return list(reversed(self._known.get(digest, {})))


class PlacedBlob(BlobOrigin):
    """A blob read from its own place for as long as that gives it, else from another."""

    def __init__(
        self, place: Place, digest: Digest, places: Places, at: Callable[[Place], BlobOrigin]
    ) -> None:
        """``at`` makes the origin of a place; it asks nobody yet."""
        self._place = place
        self._digest = digest
        self._places = places
        self._at = at
        self._lock = threading.Lock()
        self._origins = {place: at(place)}
        self._first = place

    @property
    def name(self) -> str:
        return self._origins[self._place].name

    @property
    def size(self) -> int:
        return self._origins[self._place].size

    def open(self, start: int, end: int) -> RangeBody:
        """As of any origin; the error that counts is that of the first place asked, unless
        another gives hope."""
        errors: list[RegistryError] = []
        for place in self._order():
            try:
                body = self._origin(place).open(start, end)
            except Busy:
                raise
            except RegistryError as error:
                errors.append(error)
            else:
                self._first = place
                return body
        raise next((error for error in errors if error.temporary), errors[0])

    def distrust(self) -> None:
        order = self._order()
        self._origin(order[0]).distrust()
        self._first = order[1] if len(order) > 1 else order[0]

    def _order(self) -> list[Place]:
        """What gave bytes last, then its own, then the others."""
        return list(dict.fromkeys([self._first, self._place, *self._places.of(self._digest)]))

    def _origin(self, place: Place) -> BlobOrigin:
        with self._lock:
            origin = self._origins.get(place)
            if origin is None:
                origin = self._origins[place] = self._at(place)
            return origin
