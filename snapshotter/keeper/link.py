"""The daemon's connection to a keeper: one request, one answer."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapshotter.keeper.errors import KeeperError
from snapshotter.keeper.messages import (
    BadMessage,
    Gone,
    Silent,
    close,
    decode,
    encode,
    receive,
    send,
)
from snapshotter.keeper.server import IN_USE

_PATIENCE = 5.0
"""Seconds for an answer: a keeper never waits for anything."""
_START = 20.0


class NoKeeper(KeeperError):
    """Nobody listens on the keeper's socket."""


class Link:
    """Connected to the keeper at ``address``. Not thread-safe.

    Raises :class:`NoKeeper` when nobody is there, and :class:`KeeperError` from everything
    when the keeper does not answer, or says no.
    """

    def __init__(self, address: Path) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        self._socket.settimeout(_PATIENCE)
        try:
            self._socket.connect(str(address))
        except (FileNotFoundError, ConnectionError):
            self._socket.close()
            raise NoKeeper(f"no keeper listens on {address}") from None
        except OSError as error:
            self._socket.close()
            raise KeeperError(f"cannot connect to the keeper at {address}: {error}") from None
        try:
            self.pid, self.since, self.count, self.lingers = self._hello()
        except KeeperError:
            self.close()
            raise

    def _hello(self) -> tuple[int, float, int, bool]:
        """Its process, when it began in seconds since 1970, how much it holds, and whether a
        daemon started it: the others are a service, and come again."""
        hello, files = self.ask("hello")
        close(files)
        pid, since, count = (hello.get(name) for name in ("pid", "since", "count"))
        if type(pid) is int and type(count) is int and isinstance(since, int | float):
            return max(pid, 0), float(since), count, hello.get("lingers") is not False
        raise self._nonsense("hello", "no pid, time and count")

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(
        self, op: str, files: Sequence[int] = (), **fields: object
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer, and the files that came with it."""
        try:
            send(self._socket, encode({"op": op, **fields}), files)
            raw, received = receive(self._socket)
        except Silent:
            raise KeeperError(
                f"the keeper at {self.address} does not answer: should it hang, end it with "
                "SIGKILL, which also ends the mounts that it holds for a daemon"
            ) from None
        except Gone as error:
            raise NoKeeper(f"the keeper at {self.address} has ended: {error}") from None
        except BadMessage as error:
            raise KeeperError(f"the keeper at {self.address} answered {op} with {error}") from None
        try:
            answer = decode(raw)
            if answer.get("ok") is not True:
                raise BadMessage(str(answer.get("error"))[:500])
        except BadMessage as error:
            close(received)
            raise KeeperError(f"the keeper at {self.address} refused {op}: {error}") from None
        return answer, received

    def quit(self) -> None:
        """Have the keeper end; returns when it has let go of everything."""
        self.ask("quit")
        try:
            _, files = receive(self._socket)
        except (Silent, BadMessage):
            files = []
        except Gone:
            return
        close(files)
        raise KeeperError(f"the keeper at {self.address} was told to end, and does not")

    def ids(self) -> list[str]:
        """Of everything it holds."""
        found: list[str] = [""]
        while True:
            answer, files = self.ask("list", after=found[-1])
            close(files)
            more = answer.get("ids")
            if not isinstance(more, list) or not all(isinstance(id, str) for id in more):
                raise self._nonsense("list", "no list of ids")
            if not more:
                return found[1:]
            # Without this, one that forgets where we are would be asked for ever.
            if more != sorted(set(more)) or more[0] <= found[-1]:
                raise self._nonsense("list", "no list of ids that goes on")
            found += more

    def _nonsense(self, op: str, what: str) -> KeeperError:
        return KeeperError(
            f"the keeper at {self.address} answered {op} with {what}: it is of another version, "
            "or none; start the one that belongs to this modelpack-snapshotter"
        )

    def close(self) -> None:
        self._socket.close()


def start_keeper(address: Path, cgroup: Path | None) -> None:
    """Start a keeper that outlives us; returns once it listens. :class:`KeeperError`."""
    argv = [sys.executable, "-I", "-m", "snapshotter.keeper.server", "--socket", str(address)]
    argv += ["--linger", "--background", *([str(cgroup)] if cgroup is not None else [])]
    try:
        started = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=_START,
            check=False,
            cwd="/",
            env={},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise KeeperError(f"cannot start a keeper: {error}") from None
    if started.returncode not in (0, IN_USE):
        why = started.stderr.decode(errors="replace").strip()[-500:]
        raise KeeperError(f"cannot start a keeper: {why or started.returncode}")


def cgroup_file(name: str, mountinfo: str) -> Path | None:
    """``cgroup.procs`` of a group of the unified hierarchy; None where there is none."""
    if not name:
        return None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ")[0] == "cgroup2":
            return Path(before.split(" ")[4]) / name / "cgroup.procs"
    return None
