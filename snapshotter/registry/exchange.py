"""One request to a host with all that may come between: a challenge, redirects.

Shared by both planes; how a request is sent is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar
from urllib.parse import urljoin, urlsplit

from snapshotter.registry.auth import Access, Authorizer, Tried
from snapshotter.registry.errors import BadAnswer, Unauthorized
from snapshotter.registry.hosts import address_of, is_http_url
from snapshotter.registry.secrets import remember_location

FOR_READING = frozenset({301, 302, 303, 307, 308})
FOR_WRITING = frozenset({307, 308})
_HOPS = 6
_CREDENTIALS = 5
"""That are tried for one request."""
_REQUESTS = 2 * _HOPS + _CREDENTIALS


@dataclass(frozen=True, slots=True)
class Hop:
    """Where a request is sent, and with which headers that belong to the place."""

    url: str
    own: bool
    """Is it the configured host itself? Only that one gets headers and client certificate."""
    headers: dict[str, str] = field(repr=False)


class Response(Protocol):
    @property
    def status(self) -> int: ...
    def header(self, name: str) -> str | None: ...
    def header_values(self, name: str) -> list[str]: ...
    def discard(self) -> None: ...


R = TypeVar("R", bound=Response)


def exchange(
    access: Access,
    authorizer: Authorizer,
    url: str,
    send: Callable[[Hop], R],
    *,
    redirects: frozenset[int] = FOR_READING,
) -> tuple[R, Hop]:
    """Send, renewing the token after a refusal, with each of our credentials, and following
    redirects.

    The ``Authorization`` header goes to ``access.host``'s scheme, host and port
    and nowhere else: object storage is authorised by the redirect's own query,
    refuses requests with two authorisations, and must not learn the token.
    """
    tried: Tried = set()
    hops = 0
    for _ in range(_REQUESTS):
        hop = _hop(access, authorizer, url)
        response = send(hop)
        if hop.own and len(tried) < _CREDENTIALS and _asks(response, access, authorizer):
            challenges = response.header_values("www-authenticate")
            rejected = hop.headers.get("Authorization")
            try:
                better = authorizer.renew(access, challenges, rejected, tried)
            except Unauthorized:
                if response.status == 401:
                    response.discard()
                    raise
                better = False  # what the registry says of it tells more
            if not better:
                return response, hop
            response.discard()
            continue
        location = response.header("location")
        if response.status in redirects and location:
            response.discard()
            hops += 1
            if hops >= _HOPS:
                break
            url = redirect_target(url, location)
            remember_location(url)
            continue
        return response, hop
    host = access.host.address
    raise BadAnswer(f"{host} redirects in circles for {access.repository}", host=host)


def _asks(response: Response, access: Access, authorizer: Authorizer) -> bool:
    """Whether other credentials may help. Some registries (ECR) say 403 of a token that ended."""
    return response.status == 401 or (response.status == 403 and authorizer.asks(access))


def _hop(access: Access, authorizer: Authorizer, url: str) -> Hop:
    if not same_origin(url, access.host.url):
        return Hop(url, False, {})
    headers = dict(access.host.headers)
    if (authorization := authorizer.header(access)) is not None:
        headers = {k: v for k, v in headers.items() if k.lower() != "authorization"}
        headers["Authorization"] = authorization
    return Hop(url, True, headers)


def same_origin(a: str, b: str) -> bool:
    """Scheme, host and port; RFC 6454 section 4."""
    return _origin(a) == _origin(b)


def redirect_target(url: str, location: str) -> str:
    """The absolute URL of a ``Location``; :class:`BadAnswer` when it must not be followed."""
    host = address_of(url)
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    if not is_http_url(target):
        raise BadAnswer(f"{host} redirects to something that is no http URL", host=host)
    if urlsplit(target).scheme == "http" and urlsplit(url).scheme == "https":
        raise BadAnswer(
            f"{host} redirects from https to plain http at {address_of(target)}, where bytes "
            "could be changed on the way; its administrator must make it answer https addresses",
            host=host,
        )
    return target


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, parts.hostname or "", parts.port or default
