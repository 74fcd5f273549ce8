"""Turns what went wrong on the wire into errors a person can act on."""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
import ssl
import time
from collections.abc import Iterator

import httpx

from snapshotter.registry.credentials import login_name
from snapshotter.registry.errors import (
    BadAnswer,
    NotFound,
    Overloaded,
    RegistryError,
    Unauthorized,
    Unreachable,
    Untrusted,
)
from snapshotter.registry.hosts import address_of

_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE")
UNUSABLE_URL = (httpx.InvalidURL, http.client.InvalidURL, UnicodeError)
"""What httpx, http.client and IDNA make of a host or path that no URL can have."""
_DETAIL_LIMIT = 200
_RETRY_AFTER_LIMIT = 3600.0


class TooSlow(OSError):
    """Bytes came, but too few; the text says how many in what time."""


def connection_error(error: Exception, url: str, asked: str) -> RegistryError:
    """For an exception of httpx, http.client or a socket; ``asked`` is what was wanted of whom."""
    host = one_line(address_of(url))
    cause = next(_causes(error))
    if isinstance(cause, UNUSABLE_URL):
        return BadAnswer(f"{host[:80]} was to be asked for {asked}, by a URL that cannot be one")
    start = f"{host} did not answer for {asked}"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Untrusted(
            f"{start}: its certificate is not trusted ({cause.verify_message}); name its "
            f"authority as `ca` in certs.d/{host}/hosts.toml",
            host=host,
        )
    if isinstance(cause, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return Unreachable(f"{start}: connection broke off", host=host, temporary=True)
    if isinstance(cause, ssl.SSLError):
        if cause.reason in _NO_TLS:
            return Untrusted(
                f"{start}: it does not speak TLS; if it is meant to be without, add it to "
                "plain_http in [registry] or give it as http:// in hosts.toml",
                host=host,
            )
        return Untrusted(f"{start}: TLS failed: {cause.reason or cause}", host=host)
    if isinstance(cause, TooSlow):
        return Unreachable(
            f"{host} gave only {cause} of {asked}, less than `min_rate` of [registry]: given up",
            host=host,
            temporary=True,
        )
    if isinstance(cause, httpx.TimeoutException | TimeoutError):
        return Unreachable(
            f"{start} in time; check the network, proxy and firewall between",
            host=host,
            temporary=True,
        )
    if isinstance(cause, socket.gaierror):
        why = "its name cannot be resolved; check the spelling and DNS"
        return Unreachable(f"{start}: {why}", host=host, temporary=True)
    if isinstance(cause, ConnectionRefusedError):
        why = "connection refused; check that the registry runs there"
        return Unreachable(f"{start}: {why}", host=host, temporary=True)
    if isinstance(cause, http.client.RemoteDisconnected) or "disconnected" in str(cause):
        return Unreachable(f"{start}: connection broke off", host=host, temporary=True)
    if isinstance(cause, httpx.ProtocolError | http.client.HTTPException):
        return BadAnswer(
            f"{host} answered something that is not HTTP for {asked}; is it a registry?",
            host=host,
        )
    why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return Unreachable(
        f"{start}: {one_line(why) or 'connection failed'}", host=host, temporary=True
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exceptions behind ``error``: the socket's or TLS's own first, then ``error``."""
    chain = [error]
    while (deeper := chain[-1].__cause__ or chain[-1].__context__) is not None:
        if deeper in chain:
            break
        chain.append(deeper)
    yield from (link for link in chain if isinstance(link, OSError))
    yield error


def status_error(
    status: int,
    url: str,
    asked: str,
    *,
    body: bytes = b"",
    story: str = "",
    retry_after: str | None = None,
    registry_answered: bool = True,
) -> RegistryError:
    """For an HTTP status that is not what was hoped for.

    ``story`` says which credentials were used; ``registry_answered`` is False
    when nothing in the answer looks like a registry's.
    """
    host = address_of(url)
    detail = _detail(body)
    told = f" ({detail})" if detail else ""
    if status in (401, 403):
        return Unauthorized(
            f"{host} refused {asked} with {status}{told}; {story or 'no credentials were sent'}; "
            f"run: docker login {login_name(host)}",
            host=host,
            status=status,
        )
    if status == 404:
        hint = told if registry_answered else " (its answer is not a registry's: is it one?)"
        return NotFound(f"{host} has no {asked}{hint}; check the name", host=host, status=status)
    if status == 429:
        return Overloaded(
            f"{host} answered 429 for {asked}: too many requests{told}; wait, or log in for a "
            "higher limit",
            host=host,
            status=status,
            temporary=True,
            retry_after=parse_retry_after(retry_after),
        )
    if status >= 500 or status == 408:
        return Overloaded(
            f"{host} answered {status} for {asked}{told}; try again later",
            host=host,
            status=status,
            temporary=True,
            retry_after=parse_retry_after(retry_after),
        )
    hint = "" if registry_answered else "; is it a registry?"
    return BadAnswer(f"{host} answered {status} for {asked}{told}{hint}", host=host, status=status)


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header, RFC 9110 section 10.2.3; an hour at most."""
    if value is None:
        return None
    if value.strip().isdecimal():
        seconds = float(value)
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), _RETRY_AFTER_LIMIT)


def is_registry_error(body: bytes) -> bool:
    """Is this the distribution specification's JSON for errors?"""
    return bool(_errors(body))


def one_line(text: str) -> str:
    """Printable, short, and without line ends: servers may send anything."""
    cleaned = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(cleaned.split())[:_DETAIL_LIMIT]


def _detail(body: bytes) -> str:
    errors = _errors(body)
    if errors:
        return one_line("; ".join(errors))
    text = body[:_DETAIL_LIMIT].decode("utf-8", "replace")
    return "" if "<" in text else one_line(text)


def _errors(body: bytes) -> list[str]:
    try:
        errors = json.loads(body)["errors"]
        return [
            f"{error.get('code', '')}: {error.get('message', '')}".strip(": ") for error in errors
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
