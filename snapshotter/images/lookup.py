"""Is this reference a model? Asked of the registry, within a time limit, and remembered.

What a digest names never changes and is remembered for good; what a tag names,
and every failure, only for seconds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from snapshotter.artifact.descriptor import Descriptor, Platform
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.manifest import Index, Manifest, choose, is_model, parse
from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.images.errors import ImageError
from snapshotter.registry.errors import NotFound, Unauthorized
from snapshotter.registry.reference import Reference

log = structlog.get_logger(__name__)

_REMEMBERED = 8192
_AT_ONCE = 32


class Upstream(Protocol):
    """What is needed of a registry."""

    def manifest(self, reference: Reference) -> tuple[Descriptor, bytes]: ...


class LookupFailed(ImageError):
    """The registry did not say whether the reference is a model, or it is one we cannot serve.

    ``is_model`` is True for the latter; ``refused`` when our credentials were not enough.
    """

    def __init__(self, message: str, *, is_model: bool = False, refused: bool = False) -> None:
        super().__init__(message)
        self.is_model = is_model
        self.refused = refused


@dataclass(frozen=True, slots=True)
class _Known:
    model: ModelRef | None
    failure: LookupFailed | None
    until: float


@dataclass(slots=True)
class _Call:
    """One question on its way, however many wait for the answer."""

    done: threading.Event = field(default_factory=threading.Event)
    known: _Known | None = None


class ModelLookup:
    """Thread-safe."""

    def __init__(
        self, upstream: Upstream, platform: Platform, *, timeout: float, keep: float
    ) -> None:
        """``timeout``: seconds one answer may take; ``keep``: seconds a tag's is remembered."""
        self._upstream = upstream
        self._platform = platform
        self._timeout = timeout
        self._keep = keep
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._calls: dict[str, _Call] = {}

    def find(self, reference: Reference) -> ModelRef | None:
        """The model behind ``reference``; None when it is none or does not exist.

        Never takes longer than the time limit. Raises :class:`LookupFailed`.
        """
        key = str(reference)
        with self._lock:
            known = self._known.get(key)
            if known is None or known.until < time.monotonic():
                call = self._calls.get(key) or self._ask(key, reference)
                known = None
        if known is None:
            call.done.wait(self._timeout)
            known = call.known
        if known is None:
            raise LookupFailed(
                f"registry {reference.registry} did not answer within {self._timeout:g} s "
                f"whether {reference.familiar} is a model"
            )
        if known.failure is not None:
            failure = known.failure
            raise LookupFailed(str(failure), is_model=failure.is_model, refused=failure.refused)
        return known.model

    def _ask(self, key: str, reference: Reference) -> _Call:
        """Start a question in a thread of its own: a registry that hangs holds up nobody else."""
        if len(self._calls) >= _AT_ONCE:
            raise LookupFailed(
                f"{reference.familiar}: {_AT_ONCE} questions to registries are waiting already; "
                "try again"
            )
        call = self._calls[key] = _Call()
        threading.Thread(
            target=self._answer,
            args=(key, reference, call),
            name="modelpack-lookup",
            daemon=True,
        ).start()
        return call

    def _answer(self, key: str, reference: Reference, call: _Call) -> None:
        model: ModelRef | None = None
        failure: LookupFailed | None = None
        digests: list[Digest] = []
        try:
            model = self._look(reference, digests)
        except NotFound:
            digests.clear()
        except LookupFailed as error:
            failure = error
        except ModelpackError as error:
            failure = LookupFailed(str(error), refused=isinstance(error, Unauthorized))
        except Exception as error:
            log.exception("lookup failed", reference=key)
            failure = LookupFailed(f"{reference.familiar}: {error!r}; see the log")
        now = time.monotonic()
        with self._lock:
            call.known = _Known(model, failure, now + self._keep)
            self._remember(key, call.known)
            if failure is None:
                forever = _Known(model, None, float("inf"))
                for digest in digests:
                    self._remember(str(reference.with_digest(digest)), forever)
            del self._calls[key]
        call.done.set()

    def _remember(self, key: str, known: _Known) -> None:
        self._known[key] = known
        self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def _look(self, reference: Reference, digests: list[Digest]) -> ModelRef | None:
        """Ask the registry; ``digests`` collects those that stand for the answer."""
        document = self._document(reference, digests)
        if isinstance(document, Index):
            # Not every index of models says so: then its manifest does.
            declared = is_model(document)
            try:
                chosen = choose(document, self._platform)
            except ArtifactError as error:
                if declared:
                    raise LookupFailed(f"{reference.familiar}: {error}", is_model=True) from None
                return None
            document = self._document(reference.with_digest(chosen.digest), digests)
        if not isinstance(document, Manifest) or not is_model(document):
            return None
        return ModelRef(reference.registry, reference.repository, document.digest)

    def _document(self, reference: Reference, digests: list[Digest]) -> Manifest | Index | None:
        descriptor, raw = self._upstream.manifest(reference)
        digests.append(descriptor.digest)
        try:
            return parse(raw, descriptor.digest)
        except ArtifactError as error:
            log.debug("manifest of another kind", reference=str(reference), error=str(error))
            return None
