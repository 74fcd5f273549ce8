"""The data plane: ranges of blobs, straight into the caller's buffers."""

from __future__ import annotations

import time
from functools import partial
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlencode

from snapshotter.artifact.digest import Digest
from snapshotter.registry.auth import Access, Authorizer
from snapshotter.registry.connections import Pool, PooledResponse
from snapshotter.registry.doubts import Doubts
from snapshotter.registry.errors import (
    BadAnswer,
    NoRanges,
    NotFound,
    RegistryError,
    Unauthorized,
    Unreachable,
)
from snapshotter.registry.exchange import Hop, exchange
from snapshotter.registry.failures import status_error
from snapshotter.registry.hosts import Capability, Host, address_of
from snapshotter.registry.limits import Limits
from snapshotter.registry.ranges import wrong_length, wrong_range
from snapshotter.registry.source import Source
from snapshotter.registry.upstream import Attempt, Upstreams

_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""What object storage answers for a signed location that has run out (400: Google's)."""
_ERROR_LIMIT = 4096


class RangeBody(Protocol):
    """The bytes of one range, arriving. One thread reads; any thread may close."""

    def readinto(self, buffer: memoryview) -> int:
        """Fill ``buffer`` with the next bytes; returns how many, 0 only at the end of the range.

        Blocks until the buffer is full or the range ends: give small buffers to
        see bytes early, about 1 MiB for speed. Raises a
        :class:`~snapshotter.registry.errors.RegistryError` when the body breaks.
        """
        ...

    def close(self) -> None:
        """Give up what has not been read; a ``readinto`` under way ends with an error."""
        ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class BlobOrigin(Protocol):
    """Where the bytes of one blob come from. Thread-safe."""

    @property
    def name(self) -> str:
        """For messages: ``registry/repository@sha256:...``."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    def open(self, start: int, end: int) -> RangeBody:
        """Ask for bytes ``start`` up to, not including, ``end``; returns when they begin to arrive.

        Raises subclasses of :class:`~snapshotter.registry.errors.RegistryError`;
        their ``temporary`` says whether to try again.
        """
        ...

    def distrust(self) -> None:
        """What came last was wrong: ask another host of the registry first, if there is one."""
        ...


class RegistryBlob(BlobOrigin):
    """A blob of a repository, read through the hosts configured for its registry.

    Where a host redirected to is remembered and asked directly from then on,
    until it refuses: signed locations of object storage live some minutes. A host
    that gave something wrong of this blob is asked last for a while.
    """

    def __init__(
        self,
        registry: str,
        repository: str,
        digest: Digest,
        size: int,
        *,
        upstreams: Upstreams,
        authorizer: Authorizer,
        pool: Pool,
        limits: Limits,
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._digest = digest
        self._size = size
        self._upstreams = upstreams
        self._authorizer = authorizer
        self._pool = pool
        self._limits = limits
        self._locations: dict[str, str] = {}
        self._doubts = Doubts()
        self._answered = ""

    @property
    def name(self) -> str:
        return f"{self._registry}/{self._repository}@{self._digest}"

    @property
    def size(self) -> int:
        return self._size

    def open(self, start: int, end: int) -> RangeBody:
        if not 0 <= start <= end <= self._size:
            raise ValueError(f"range {start}-{end} is outside of {self.name}, {self._size} bytes")
        if start == end:
            return _NoBody()
        try:
            return self._upstreams.attempt(
                self._registry,
                Capability.PULL,
                self._digest,
                partial(self._open_at, start=start, end=end),
                avoided=self._doubts.hosts(time.monotonic()),
            )
        except BadAnswer as error:
            self._doubts.judge(error, start)
            raise

    def distrust(self) -> None:
        # With ranges in flight from several hosts it may hit the wrong one, which costs
        # an attempt: the next wrong bytes name the other.
        self._doubts.distrust(self._answered, time.monotonic())
        self._locations.pop(self._answered, None)

    def _open_at(self, host: Host, attempt: Attempt, *, start: int, end: int) -> RangeBody:
        limiter = self._limits.of(host)
        limiter.enter()
        source = Source(attempt, limiter, partial(self._ended, host, start))
        try:
            response = self._answer(host, start, end)
        except BaseException as error:
            limiter.leave()
            if isinstance(error, RegistryError):
                self._doubts.note(host.url, error, time.monotonic())
            raise
        attempt.answered()
        self._answered = host.url
        return _RegistryBody(response, start, end, source)

    def _ended(self, host: Host, start: int, error: RegistryError | None) -> None:
        if error is None:
            self._doubts.believe(host.url, start)
            return
        self._locations.pop(host.url, None)
        self._doubts.note(host.url, error, time.monotonic())
        if isinstance(error, BadAnswer):
            self._doubts.judge(error, start)

    def _answer(self, host: Host, start: int, end: int) -> PooledResponse:
        """The right answer of ``host`` or of where it sends us; its body is still to come."""
        if (location := self._locations.get(host.url)) is not None:
            try:
                response = self._get(host, Hop(location, False, {}), start, end)
                if response.status not in _EXPIRED:
                    return self._checked(host, response, start, end, own=False)
            except RegistryError:
                self._locations.pop(host.url, None)
                raise
            response.discard()
            self._locations.pop(host.url, None)
        url = f"{host.url}/{self._repository}/blobs/{self._digest}{query(host)}"
        access = Access(host, self._repository)
        response, hop = exchange(
            access, self._authorizer, url, lambda hop: self._get(host, hop, start, end)
        )
        response = self._checked(host, response, start, end, own=hop.own)
        if not hop.own:
            self._locations[host.url] = hop.url
        return response

    def _get(self, host: Host, hop: Hop, start: int, end: int) -> PooledResponse:
        return self._pool.get(
            hop.url,
            {**hop.headers, "Range": f"bytes={start}-{end - 1}"},
            asked=self._asked,
            tls=host.tls,
            identify=hop.own,
        )

    @property
    def _asked(self) -> str:
        return f"blob {self._digest} of {self._repository}"

    def _checked(
        self, host: Host, response: PooledResponse, start: int, end: int, *, own: bool
    ) -> PooledResponse:
        """The answer, once status and headers say that it is the range asked for."""
        try:
            if response.status in _EXPIRED and not own:
                raise self._storage_refuses(host, response)
            self._check(host, response, start, end)
        except BaseException:
            response.close()
            raise
        return response

    def _storage_refuses(self, host: Host, response: PooledResponse) -> RegistryError:
        address, status = address_of(response.url), response.status
        return (NotFound if status == 404 else Unauthorized)(
            f"{address} answered {status} for {self._asked}, though {host.address} sent us there; "
            "check the clocks of both and the registry's storage",
            host=address,
            status=status,
        )

    def _check(self, host: Host, response: PooledResponse, start: int, end: int) -> None:
        address = address_of(response.url)
        length = response.header("content-length")
        if response.status == 206:
            wrong = wrong_range(start, end, self._size, response.header("content-range"), length)
        elif response.status == 200 and (start, end) == (0, self._size):
            wrong = wrong_length(self._size, length)
        elif response.status == 200:
            raise NoRanges(
                f"{address} answered bytes {start}-{end - 1} of {self._asked} with the whole blob: "
                "it does not serve ranges, so the model cannot be read lazily from it",
                host=address,
                status=200,
            )
        elif response.status == 416:
            wrong = f"that they do not exist, expected {self._size} bytes in all"
        else:
            raise status_error(
                response.status,
                response.url,
                self._asked,
                body=response.read(_ERROR_LIMIT),
                story=self._authorizer.story(Access(host, self._repository)),
                retry_after=response.header("retry-after"),
            )
        if wrong is None and response.header("content-encoding") not in (None, "identity"):
            wrong = "them compressed, which nobody asked for"
        if wrong is not None:
            raise BadAnswer(
                f"{address} was asked for bytes {start}-{end - 1} of {self._asked} and answered "
                f"{wrong}",
                host=address,
                status=response.status,
            )


class _RegistryBody(RangeBody):
    """Bytes off the wire; the connection is reused when they have all been read."""

    def __init__(self, response: PooledResponse, start: int, end: int, source: Source) -> None:
        self._response = response
        self._start = start
        self._position = start
        self._end = end
        self._source = source

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._end - self._position)
        if wanted == 0:
            return 0
        try:
            self._take(buffer[:wanted])
            if self._position == self._end:
                self._finish()
                self._source.delivered()
        except RegistryError as error:
            self._response.close()
            self._source.failed(error)
            raise
        except BaseException:
            self.close()
            raise
        return wanted

    def close(self) -> None:
        # First, or a reader that this wakes would blame the host.
        self._source.closed(began=self._position > self._start)
        self._response.close()

    def _take(self, buffer: memoryview) -> None:
        piece = self._source.piece or len(buffer)
        for first in range(0, len(buffer), piece):
            part = buffer[first : first + piece]
            got = self._response.readinto(part)
            self._position += got
            if got < len(part):
                raise self._response.error(self._truncated())
            self._source.slow_down(got)

    def _finish(self) -> None:
        # A chunked body tells its end only now; of others nothing is left to read.
        if self._response.readinto(memoryview(bytearray(1))):
            host = address_of(self._response.url)
            raise BadAnswer(
                f"{host} sent more than the range asked for of {self._response.asked}", host=host
            )
        self._response.release()

    def _truncated(self) -> RegistryError:
        host = address_of(self._response.url)
        missing = self._end - self._position
        return Unreachable(
            f"{host} broke off {self._response.asked}: {missing} bytes of the range are missing",
            host=host,
            temporary=True,
        )


class _NoBody(RangeBody):
    """The empty range, for which HTTP has no request."""

    def readinto(self, buffer: memoryview) -> int:  # noqa: ARG002
        return 0

    def close(self) -> None:
        pass


def query(host: Host) -> str:
    """The query that a mirror needs to know which registry is meant."""
    return f"?{urlencode(host.query)}" if host.query else ""
