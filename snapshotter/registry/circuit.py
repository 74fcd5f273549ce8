"""When is a host to be left alone? What its failures in a row mean. Pure: the caller has the clock.

A circuit breaker as usual, with two differences. A failure that may be that of one
object only (500, a body that breaks off) never counts against the host before a second
object has met it too: one damaged blob must not stop everything else. And a host is
asked last for a while after its first failure, long before it is not asked at all.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from snapshotter.registry.errors import Overloaded, RegistryError, Unreachable, Untrusted

_OBJECTS = 2
"""Different objects that must have failed before failures count that may be theirs."""
PROBE_WAIT = 0.5
"""Seconds others wait before they look again whether the one who asks had an answer."""


class State(enum.Enum):
    CLOSED = "ok"
    """Asked as usual."""
    OPEN = "left alone"
    """Not asked until some time has passed."""
    PROBING = "probing"
    """One request is on its way to see whether the host answers again."""


class Blame(enum.Enum):
    """What a failure says of the host."""

    NOTHING = enum.auto()
    """An answer, though not the one hoped for: 401, 403, 404."""
    ORDER = enum.auto()
    """Ask others first; asking it costs nothing, and only an administrator can mend it."""
    OBJECT = enum.auto()
    """Perhaps only what was asked for."""
    HOST = enum.auto()


@dataclass(frozen=True, slots=True)
class Rules:
    """Pauses in seconds."""

    failures: int
    """Failures in a row after which the host is left alone; 0: never."""
    pause: float
    max_pause: float
    max_retry_after: float
    avoid: float
    """How long the host is asked after all others once it failed."""


@dataclass(slots=True)
class Circuit:
    """What is known of one host. ``now`` is the same monotonic clock everywhere."""

    rules: Rules
    state: State = State.CLOSED
    failures: int = 0
    """In a row."""
    pauses: int = 0
    """In a row: each is twice as long as the one before."""
    until: float = 0.0
    """End of the pause while OPEN."""
    avoid_until: float = 0.0
    last_error: RegistryError | None = None
    failed_at: float = 0.0
    """When it was last asked in vain."""
    _objects: set[str] = field(default_factory=set)

    def wait(self, now: float, *, eager: bool = False) -> float:
        """Seconds until the host may be asked; 0 is now.

        ``eager`` is for what a person waits for: it goes as the probe at once, unless
        one is on its way or the host itself asked for the pause.
        """
        if self.state is State.PROBING:
            return PROBE_WAIT
        if self.state is State.OPEN and now < self.until:
            asked = self.last_error is not None and self.last_error.retry_after is not None
            return 0.0 if eager and not asked else self.until - now
        return 0.0

    def begin(self) -> bool:
        """A request starts, for which :meth:`wait` said 0. Is it the probe?"""
        if self.state is not State.OPEN:
            return False
        self.state = State.PROBING
        return True

    def answered(self, *, probe: bool) -> None:
        """The answer began and is right: others may ask as well."""
        if probe and self.state is State.PROBING:
            self.state = State.CLOSED

    def delivered(self) -> None:
        """Everything asked for came."""
        if self.state is not State.OPEN:
            self.state = State.CLOSED
            self.failures = self.pauses = 0
            self.avoid_until = 0.0
            self._objects.clear()

    def abandoned(self, now: float, *, probe: bool) -> None:
        """The request ended without telling anything of the host."""
        if probe and self.state is State.PROBING:
            self.state, self.until = State.OPEN, now

    def failed(
        self,
        error: RegistryError,
        about: str,
        now: float,
        jitter: float,
        *,
        probe: bool = False,
        begun: bool = False,
    ) -> None:
        """A request for ``about`` failed; ``begun``: after its answer had begun.

        ``jitter`` is from [0, 1).
        """
        blame = blame_of(error, begun=begun)
        if blame is Blame.NOTHING:
            self.answered(probe=probe)
            self.delivered()
            return
        self.last_error, self.failed_at = error, now
        self.avoid_until = now + self.rules.avoid
        if blame is Blame.ORDER:
            self.answered(probe=probe)
            return
        if self.state is State.OPEN or (self.state is State.PROBING and not probe):
            return  # an older request: what it says is known
        self.failures += 1
        if len(self._objects) < _OBJECTS:
            self._objects.add(about)
        asked = min(error.retry_after or 0.0, self.rules.max_retry_after)
        of_host = blame is Blame.HOST or len(self._objects) >= _OBJECTS
        enough = 0 < self.rules.failures <= self.failures and of_host
        if probe or enough:
            pause = min(self.rules.pause * 2.0 ** min(self.pauses, 30), self.rules.max_pause)
            self.pauses += 1
            self._open(now + max(pause * (0.75 + jitter / 4), asked))
        elif asked > 0:
            self._open(now + asked)

    def _open(self, until: float) -> None:
        self.state, self.until = State.OPEN, until


def blame_of(error: RegistryError, *, begun: bool) -> Blame:
    """What ``error`` says of the host that was asked."""
    if isinstance(error, Untrusted):
        return Blame.ORDER
    if isinstance(error, Unreachable) and error.temporary:
        return Blame.OBJECT if begun else Blame.HOST
    if isinstance(error, Overloaded):
        return Blame.OBJECT if error.status == 500 else Blame.HOST
    return Blame.NOTHING
