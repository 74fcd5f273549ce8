"""A registry's hosts asked in order, those that failed of late last."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from typing import TypeVar

import structlog

from snapshotter.registry.errors import (
    Overloaded,
    RegistryError,
    Unreachable,
    Untrusted,
)
from snapshotter.registry.hosts import Capability, Host, find_hosts
from snapshotter.registry.options import RegistryOptions

_T = TypeVar("_T")
_PENALTY = 30.0
"""Seconds a host that failed is asked last: without it every read would wait for a dead mirror."""
_REREAD = 5.0
"""Seconds a hosts.toml is remembered: ranges are asked for by the thousand."""

log = structlog.get_logger(__name__)


class Upstreams:
    """All registries; thread-safe. A changed hosts.toml counts within some seconds."""

    def __init__(self, options: RegistryOptions, *, skip: Collection[str] = ()) -> None:
        self._options = options
        self._skip = tuple(skip)
        self._lock = threading.Lock()
        self._down: dict[str, float] = {}
        self._configured: dict[str, tuple[float, list[Host]]] = {}

    def hosts(
        self, registry: str, capability: Capability, *, last: Collection[str] = ()
    ) -> list[Host]:
        """Hosts that may be asked, best first and those whose URL is in ``last`` at the end.

        :class:`RegistryError` when there is none.
        """
        able = [host for host in self._find(registry) if capability in host.capabilities]
        if not able:
            name = (capability.name or "this").lower()
            raise RegistryError(
                f"{registry}: no host is left that may {name}; check its hosts.toml in "
                f"{', '.join(self._options.certs_d)}",
                host=registry,
            )
        now = time.monotonic()
        with self._lock:
            self._down = {url: until for url, until in self._down.items() if until > now}
            return sorted(able, key=lambda host: (host.url in last, host.url in self._down))

    def _find(self, registry: str) -> list[Host]:
        now = time.monotonic()
        with self._lock:
            until, hosts = self._configured.get(registry, (0.0, []))
        if now < until:
            return hosts
        hosts = find_hosts(
            registry,
            certs_d=self._options.certs_d,
            plain_http=self._options.plain_http,
            skip=self._skip,
        )
        with self._lock:
            self._configured[registry] = now + _REREAD, hosts
        return hosts

    def ask(
        self,
        registry: str,
        capability: Capability,
        request: Callable[[Host], _T],
        *,
        last: Collection[str] = (),
    ) -> _T:
        """The first answer that is no error; otherwise the error of the host asked last."""
        hosts = self.hosts(registry, capability, last=last)
        for host in hosts[:-1]:
            try:
                return self._ask(host, request)
            except RegistryError as error:
                log.debug("asking the next host", registry=registry, after=str(error))
        return self._ask(hosts[-1], request)

    def _ask(self, host: Host, request: Callable[[Host], _T]) -> _T:
        try:
            return request(host)
        except (Unreachable, Untrusted, Overloaded):
            with self._lock:
                self._down[host.url] = time.monotonic() + _PENALTY
            raise
