"""The data plane: ranges of blobs, straight into the caller's buffers."""

from __future__ import annotations

from functools import partial
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import urlencode

from snapshotter.artifact.digest import Digest
from snapshotter.registry.auth import Access, Authorizer
from snapshotter.registry.connections import Pool, PooledResponse
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
from snapshotter.registry.ranges import wrong_length, wrong_range
from snapshotter.registry.upstream import Upstreams

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
    until it refuses: signed locations of object storage live some minutes.
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
    ) -> None:
        self._registry = registry
        self._repository = repository
        self._digest = digest
        self._size = size
        self._upstreams = upstreams
        self._authorizer = authorizer
        self._pool = pool
        self._location: tuple[Host, str] | None = None
        self._answered = ""
        self._distrusted: frozenset[str] = frozenset()

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
        if (location := self._location) is not None:
            host, url = location
            try:
                response = self._get(host, Hop(url, False, {}), start, end)
            except RegistryError:
                self._location = None
                raise
            if response.status not in _EXPIRED:
                return self._body(host, response, start, end, own=False)
            response.discard()
            self._location = None
        return self._upstreams.ask(
            self._registry,
            Capability.PULL,
            partial(self._open_at, start=start, end=end),
            last=self._distrusted,
        )

    def distrust(self) -> None:
        # With ranges in flight from several hosts it may hit the wrong one, which costs
        # an attempt: the next wrong bytes name the other.
        self._distrusted |= {self._answered}
        self._location = None

    def _open_at(self, host: Host, start: int, end: int) -> RangeBody:
        url = f"{host.url}/{self._repository}/blobs/{self._digest}{query(host)}"
        access = Access(host, self._repository)
        response, hop = exchange(
            access, self._authorizer, url, lambda hop: self._get(host, hop, start, end)
        )
        body = self._body(host, response, start, end, own=hop.own)
        self._answered = host.url
        if not hop.own:
            self._location = host, hop.url
        return body

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

    def _body(
        self, host: Host, response: PooledResponse, start: int, end: int, *, own: bool
    ) -> RangeBody:
        """The body, once status and headers say that it is the range asked for."""
        try:
            if response.status in _EXPIRED and not own:
                raise self._storage_refuses(host, response)
            self._check(host, response, start, end)
        except BaseException:
            response.close()
            raise
        return _RegistryBody(response, start, end)

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

    def __init__(self, response: PooledResponse, start: int, end: int) -> None:
        self._response = response
        self._position = start
        self._end = end

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._end - self._position)
        if wanted == 0:
            return 0
        try:
            got = self._response.readinto(buffer[:wanted])
            if got < wanted:
                raise self._response.error(self._truncated(got))
            self._position += got
            if self._position == self._end:
                self._finish()
        except BaseException:
            self._response.close()
            raise
        return got

    def close(self) -> None:
        self._response.close()

    def _finish(self) -> None:
        # A chunked body tells its end only now; of others nothing is left to read.
        if self._response.readinto(memoryview(bytearray(1))):
            host = address_of(self._response.url)
            raise BadAnswer(
                f"{host} sent more than the range asked for of {self._response.asked}", host=host
            )
        self._response.release()

    def _truncated(self, got: int) -> RegistryError:
        host = address_of(self._response.url)
        missing = self._end - self._position - got
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
