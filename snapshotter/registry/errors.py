"""Errors of talking to registries."""

from __future__ import annotations

from snapshotter.errors import ModelpackError
from snapshotter.registry.secrets import scrub


class InvalidReference(ModelpackError, ValueError):
    """Text that is no reference as Docker writes them."""


class InvalidHostsFile(ModelpackError):
    """A hosts.toml, or a certificate it names, that cannot be used."""


class RegistryError(ModelpackError):
    """A registry did not give, or take, what was asked.

    ``temporary`` says whether the same request may succeed when tried again
    later; ``retry_after`` is the pause in seconds the server asked for. The message
    holds no secret that was sent to anybody.
    """

    def __init__(
        self,
        message: str,
        *,
        host: str = "",
        status: int | None = None,
        temporary: bool = False,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(scrub(message))
        self.host = host
        self.status = status
        self.temporary = temporary
        self.retry_after = retry_after


class NotFound(RegistryError):
    """404: no such repository, manifest or blob."""


class Unauthorized(RegistryError):
    """401 or 403: no credentials, wrong ones, or not allowed with them."""


class Unreachable(RegistryError):
    """No answer: name not found, connection refused or broken, time over. Temporary."""


class Untrusted(RegistryError):
    """TLS failed: unknown certificate authority, wrong name, or no TLS spoken at all."""


class Overloaded(RegistryError):
    """429 or 5xx: the server cannot answer now. Temporary."""


class LeftAlone(RegistryError):
    """Not asked: the host failed too often of late, at last in the way of ``last``, at
    ``failed_at`` of the monotonic clock. Temporary."""

    def __init__(
        self,
        message: str,
        *,
        host: str,
        last: RegistryError | None,
        failed_at: float,
        retry_after: float,
    ) -> None:
        status = last.status if last is not None else None
        super().__init__(message, host=host, status=status, temporary=True, retry_after=retry_after)
        self.last = last
        self.failed_at = failed_at


class Busy(RegistryError):
    """Not asked now: the limits configured for the host are used up. No failure of anybody."""

    def __init__(self, message: str, *, host: str, retry_after: float) -> None:
        super().__init__(message, host=host, temporary=True, retry_after=retry_after)


class BadAnswer(RegistryError):
    """An answer that breaks the protocol or does not hold the content asked for."""


class NoRanges(BadAnswer):
    """The server ignores ``Range``, without which a blob cannot be read lazily."""
