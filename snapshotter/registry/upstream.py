"""A registry's hosts asked in order: those that failed of late last, those left alone never."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import structlog

from snapshotter.registry.circuit import Circuit, Rules, State
from snapshotter.registry.errors import Busy, LeftAlone, RegistryError
from snapshotter.registry.hosts import Capability, Host, find_hosts
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.secrets import remember
from snapshotter.throttle import Throttle

_T = TypeVar("_T")
_REREAD = 5.0
"""Seconds a hosts.toml is remembered: ranges are asked for by the thousand."""
_CIRCUITS = 1024
"""Hosts that are remembered: pulls may name any registry."""

log = structlog.get_logger(__name__)


class Attempt:
    """One request to one host. How it ends counts for all who want something of that host.

    One of the last three is to be called, once; more calls are ignored.
    """

    def __init__(self, upstreams: Upstreams, circuit: Circuit, host: Host, about: str) -> None:
        self._upstreams = upstreams
        self._circuit = circuit
        self._host = host
        self._about = about
        self._probe = circuit.begin()
        self._begun = False
        self._over = False

    def answered(self) -> None:
        """The right answer has begun; its body is still to come."""
        self._begun = True
        with self._upstreams._lock:
            self._circuit.answered(probe=self._probe)

    def delivered(self) -> None:
        self._end(lambda: self._circuit.delivered())

    def abandoned(self) -> None:
        """Given up by ourselves."""
        now = time.monotonic()
        self._end(lambda: self._circuit.abandoned(now, probe=self._probe))

    def failed(self, error: RegistryError) -> None:
        now, jitter = time.monotonic(), random.random()
        circuit = self._circuit

        def end() -> None:
            before = circuit.state
            circuit.failed(error, self._about, now, jitter, probe=self._probe, begun=self._begun)
            if before is State.CLOSED and circuit.state is State.OPEN:
                self._upstreams._tell(self._host, circuit, now)

        self._end(end)

    def _end(self, act: Callable[[], None]) -> None:
        with self._upstreams._lock:
            if not self._over:
                self._over = True
                act()


class Upstreams:
    """All registries; thread-safe. A changed hosts.toml counts within some seconds."""

    def __init__(self, options: RegistryOptions, *, skip: Collection[str] = ()) -> None:
        self._options = options
        self._skip = tuple(skip)
        self._rules = Rules(
            options.breaker_failures,
            options.breaker_pause,
            options.breaker_max_pause,
            options.max_retry_after,
            options.avoid_failed,
        )
        self._told = Throttle()
        self._lock = threading.Lock()
        self._circuits: dict[str, Circuit] = {}
        self._hosts: dict[str, Host] = {}
        self._configured: dict[str, tuple[float, list[Host]]] = {}

    def hosts(
        self, registry: str, capability: Capability, avoided: Collection[str] = ()
    ) -> list[Host]:
        """Hosts that may be asked, best first; :class:`RegistryError` when there is none.

        ``avoided`` are URLs of hosts to ask last besides those that failed.
        """
        able = self._able(registry, capability)
        now = time.monotonic()
        with self._lock:
            down = {url for url, circuit in self._circuits.items() if circuit.avoid_until > now}
        return sorted(able, key=lambda host: host.url in down or host.url in avoided)

    def ask(
        self, registry: str, capability: Capability, about: str, request: Callable[[Host], _T]
    ) -> _T:
        """The first answer that is no error; otherwise the error that counts most.

        ``about`` says what is asked for, to tell a broken object from a broken host.
        """

        def whole(host: Host, attempt: Attempt) -> _T:
            answer = request(host)
            attempt.delivered()
            return answer

        return self.attempt(registry, capability, about, whole, eager=True)

    def attempt(
        self,
        registry: str,
        capability: Capability,
        about: str,
        request: Callable[[Host, Attempt], _T],
        *,
        avoided: Collection[str] = (),
        eager: bool = False,
    ) -> _T:
        """As :meth:`ask`, where the caller says of the attempt how it ended when it went well."""
        errors: dict[str, RegistryError] = {}
        for host in self.hosts(registry, capability, avoided):
            try:
                return self._attempt(host, about, request, eager)
            except Busy:
                raise
            except RegistryError as error:
                errors[host.url] = error
                log.debug("host failed", registry=registry, host=host.address, error=str(error))
        raise _what_counts(
            [errors[host.url] for host in self._able(registry, capability) if host.url in errors]
            or list(errors.values())
        )

    def _attempt(
        self, host: Host, about: str, request: Callable[[Host, Attempt], _T], eager: bool
    ) -> _T:
        with self._lock:
            circuit = self._circuit(host)
            wait = circuit.wait(time.monotonic(), eager=eager)
            if wait > 0:
                raise _left_alone(host, circuit, wait)
            attempt = Attempt(self, circuit, host, about)
        try:
            return request(host, attempt)
        except RegistryError as error:
            attempt.abandoned() if isinstance(error, Busy) else attempt.failed(error)
            raise
        except BaseException:
            attempt.abandoned()
            raise

    def describe(self) -> list[dict[str, Any]]:
        """What is known of each host that was asked, for `modelpack status`; times in seconds."""
        now = time.monotonic()
        with self._lock:
            return [
                {
                    "host": self._hosts[url].address,
                    "url": url,
                    "registry": self._hosts[url].registry,
                    "state": circuit.state.value,
                    "failures": circuit.failures,
                    "asked_again_in_seconds": (
                        round(max(0.0, circuit.until - now), 3)
                        if circuit.state is State.OPEN
                        else 0.0
                    ),
                    "asked_last_for_seconds": round(max(0.0, circuit.avoid_until - now), 3),
                    "last_error": str(circuit.last_error) if circuit.last_error else None,
                }
                for url, circuit in self._circuits.items()
            ]

    def _tell(self, host: Host, circuit: Circuit, now: float) -> None:
        if (kept_back := self._told.admit(host.url)) is not None:
            log.warning(
                "host is left alone",
                host=host.address,
                failures=circuit.failures,
                seconds=round(circuit.until - now, 1),
                error=str(circuit.last_error),
                alike_not_logged=kept_back,
            )

    def _circuit(self, host: Host) -> Circuit:
        circuit = self._circuits.get(host.url)
        if circuit is None:
            if len(self._circuits) >= _CIRCUITS:
                oldest = next(iter(self._circuits))
                del self._circuits[oldest], self._hosts[oldest]
            circuit = self._circuits[host.url] = Circuit(self._rules)
        self._hosts[host.url] = host
        return circuit

    def _able(self, registry: str, capability: Capability) -> list[Host]:
        able = [host for host in self._find(registry) if capability in host.capabilities]
        if not able:
            name = (capability.name or "this").lower()
            raise RegistryError(
                f"{registry}: no host is left that may {name}; check its hosts.toml in "
                f"{', '.join(self._options.certs_d)}",
                host=registry,
            )
        return able

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
        for host in hosts:
            remember(*_secrets(host.headers))
        with self._lock:
            if len(self._configured) >= _CIRCUITS:
                del self._configured[next(iter(self._configured))]
            self._configured[registry] = now + _REREAD, hosts
        return hosts


def _what_counts(errors: list[RegistryError]) -> RegistryError:
    """Of the errors of hosts in the order of hosts.toml, that which tells the caller what to do.

    The last host is the registry itself: what it says for good is true whatever
    mirrors say. Otherwise whoever may answer soonest gives hope.
    """
    authority = errors[-1]
    if not authority.temporary:
        return authority
    hopeful = [error for error in reversed(errors) if error.temporary]
    return min(hopeful, key=lambda error: error.retry_after or 0.0)


def _left_alone(host: Host, circuit: Circuit, wait: float) -> LeftAlone:
    last = circuit.last_error
    times = f"{circuit.failures} failures in a row" if circuit.failures > 1 else "a failure"
    return LeftAlone(
        f"{host.address} is left alone for {wait:.1f} s after {times}; the last: {last}",
        host=host.address,
        last=last,
        failed_at=circuit.failed_at,
        retry_after=wait,
    )


def _secrets(headers: Mapping[str, str]) -> list[str]:
    """Header values and their words: ``Bearer TOKEN`` may come back without ``Bearer``."""
    return [part for value in headers.values() for part in (value, *value.split()[1:])]
