"""The daemon's keeper: what it is to hold, and that there always is one that does."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.link import Link, NoKeeper, cgroup_file, start_keeper
from snapshotter.keeper.messages import close
from snapshotter.keeper.options import KeeperOptions

log = structlog.get_logger(__name__)

_PATIENCE = 10.0
"""Seconds to have a keeper listen."""
_SERVICE = 2.0
"""Seconds for a keeper that is a service to be started again by who did it before."""
_AGAIN = 5.0
"""Seconds between attempts to have a keeper again."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a keeper had when the daemon came. The files are the caller's."""

    id: str
    record: str
    files: list[int]


class Keeping:
    """Hands mounts to the keeper at ``address``, and to the next one when it dies. Thread-safe.

    Files handed over stay open here too, by their own numbers, until they are dropped or
    :meth:`close` is called. Raises :class:`KeeperError` when no keeper can be had at first, or
    one does not answer: the mounts it holds must not be taken for dead.
    """

    def __init__(self, address: Path, options: KeeperOptions) -> None:
        self._address = address
        self._cgroup = options.cgroup
        self._lock = threading.Lock()
        self._entries: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._service = False
        """Whether the latest keeper was one that nobody of us started."""
        self._link: Link | None = self._connect()
        self.inherited = self._take(self._link)
        """What an earlier daemon left."""
        self._closing = False
        self._poke, self._poked = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._watcher = threading.Thread(target=self._watch, name="modelpack-keeper", daemon=True)
        self._watcher.start()

    @property
    def holding(self) -> bool:
        """Whether a keeper has everything."""
        return self._link is not None

    def hold(self, id: str, record: str, files: Sequence[int]) -> None:
        """Have copies of ``files`` kept. What cannot be handed over now is as soon as possible."""
        duplicates = tuple(os.dup(fd) for fd in files)
        with self._lock:
            self._entries[id] = record, duplicates
            self._tell("put", duplicates, id=id, record=record)

    def adopt(self, held: Held) -> None:
        """Go on having kept what was inherited."""
        with self._lock:
            self._entries[held.id] = held.record, tuple(os.dup(fd) for fd in held.files)

    def drop(self, id: str) -> None:
        """It has ended. Also for what was inherited and is of no use."""
        with self._lock:
            _, files = self._entries.pop(id, ("", ()))
            self._tell("drop", id=id)
        close(files)

    def describe(self) -> dict[str, Any]:
        """For `modelpack status`."""
        link = self._link
        told: dict[str, Any] = {"address": str(self._address), "holds": len(self._entries)}
        if link is not None:
            told |= {"pid": link.pid, "since": link.since, "rss_bytes": _rss(link.pid)}
        return told

    def close(self) -> None:
        """Let go; the keeper goes on holding what it has."""
        with self._lock:
            self._closing = True
            os.write(self._poked, b"x")
        self._watcher.join()
        with self._lock:
            if self._link is not None:
                self._link.close()
            self._link = None
            for _, files in self._entries.values():
                close(files)
            self._entries.clear()
        os.close(self._poke)
        os.close(self._poked)

    def _tell(self, op: str, files: Sequence[int] = (), **fields: object) -> None:
        """With the lock held."""
        if self._link is None:
            return
        try:
            self._link.ask(op, files, **fields)
        except KeeperError as error:
            self._lost(error)
            os.write(self._poked, b"x")

    def _lost(self, error: object) -> None:
        log.warning("the keeper is lost, looking for another", error=str(error))
        if self._link is not None:
            self._link.close()
            self._link = None

    # Being sure that there is one

    def _connect(self) -> Link:
        link = self._find() or self._start()
        self._service = not link.lingers
        return link

    def _find(self) -> Link | None:
        """The keeper that is there. One that we start before the service's own is there again
        would be in its way, and live in our control group."""
        patience = time.monotonic() + (_SERVICE if self._service else 0)
        while True:
            try:
                return Link(self._address)
            except NoKeeper:
                if time.monotonic() >= patience:
                    return None
            time.sleep(0.02)

    def _start(self) -> Link:
        group = cgroup_file(self._cgroup, Path("/proc/self/mountinfo").read_text())
        patience = time.monotonic() + _PATIENCE
        while True:
            start_keeper(self._address, group)
            try:
                link = Link(self._address)
            except NoKeeper:
                # One that was just killed may still be in the way of another.
                if time.monotonic() > patience:
                    raise
                time.sleep(0.05)
                continue
            log.debug("there is a keeper", pid=link.pid, address=str(self._address))
            return link

    @staticmethod
    def _take(link: Link) -> list[Held]:
        found = []
        for id in link.ids():
            answer, files = link.ask("get", id=id)
            found.append(Held(id, str(answer.get("record")), files))
        return found

    def _watch(self) -> None:
        failed = False
        while not self._closing:
            with self._lock:
                if self._link is None and not self._closing:
                    failed = not self._renew(quiet=failed)
                poll = select.poll()
                poll.register(self._poke, select.POLLIN)
                if self._link is not None:
                    poll.register(self._link, 0)  # hanging up is always told
                watched = self._link
            events = poll.poll(None if watched is not None else _AGAIN * 1000)
            for fd, _ in events:
                if fd == self._poke:
                    os.read(self._poke, 64)
                    continue
                with self._lock:
                    if self._link is watched and watched is not None:
                        self._lost("it closed the connection")

    def _renew(self, *, quiet: bool) -> bool:
        """Another keeper, with everything. False when there is none yet. With the lock held."""
        try:
            link = self._connect()
            for id in set(link.ids()) - set(self._entries):
                link.ask("drop", id=id)
            for id, (record, files) in self._entries.items():
                link.ask("put", files, id=id, record=record)
        except KeeperError as error:
            if not quiet:
                log.error("no keeper: mounts would end with this daemon", error=str(error))
            return False
        log.info("a keeper has all mounts again", pid=link.pid, mounts=len(self._entries))
        self._link = link
        return True


def _rss(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
