"""`modelpack-keeper`: holds open files for a daemon that may be killed at any moment.

Answers on a unix socket (0600), to its own user and to root. Whatever comes in, it goes on:
it ends when it is told to, or, with ``--linger``, when it holds nothing and nobody is there.
Where another one is there it waits for that one's end, to be the next; with ``--linger`` it ends.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import time
from pathlib import Path

from snapshotter.keeper.messages import BadMessage, Gone, close, decode, encode, receive, send
from snapshotter.keeper.shelf import Shelf
from snapshotter.notify import notify

CONNECTIONS = 16
LINGER = 15.0
"""Seconds without anything to hold and anybody to ask, after which ``--linger`` ends."""
IN_USE = 3
"""Exit status when another keeper has the socket."""

_CREDENTIALS = struct.Struct("3i")


class Keeper:
    """Serves a listening SOCK_SEQPACKET socket."""

    def __init__(self, listener: socket.socket, *, linger: float | None = None) -> None:
        self.shelf = Shelf(lingers=linger is not None)
        self._listener = listener
        self._linger = linger
        self._connections: set[socket.socket] = set()
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until ``quit``, or the end of the lingering."""
        idle_since = time.monotonic()
        while not self.shelf.over:
            events = self._selector.select(self._linger)
            for key, _ in events:
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._serve_one(key.fileobj)
            if events or self._connections or len(self.shelf):
                idle_since = time.monotonic()
            elif self._linger is not None and time.monotonic() - idle_since >= self._linger:
                return

    def close(self) -> None:
        """Let go of everything: what it held is closed. Whoever is connected sees it by that."""
        self.shelf.close()
        self._listener.close()
        self._selector.close()
        for connection in self._connections:
            connection.close()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(0.1)  # no descriptors left, say: whoever asks waits
            return
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid not in (0, os.geteuid()) or len(self._connections) >= CONNECTIONS:
            connection.close()
            return
        connection.setblocking(False)
        self._connections.add(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _serve_one(self, connection: socket.socket) -> None:
        try:
            self._answer(connection)
        except BlockingIOError:
            pass
        except Gone:
            self._selector.unregister(connection)
            self._connections.discard(connection)
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        files: list[int] = []
        try:
            raw, files = receive(connection)
            try:
                message = decode(raw)
            except BadMessage:
                close(files)
                raise
            told, beside = self.shelf.answer(message, files)
            send(connection, encode({"ok": True, **told}), beside)
        except BadMessage as error:
            send(connection, encode({"ok": False, "error": str(error)}))


def listen(path: Path, *, wait: bool = False) -> tuple[socket.socket, int]:
    """The listening socket and a lock to keep open, which one keeper at a time has.

    While another has it: wait, without a limit, or raise :class:`BlockingIOError`.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = _lock(path, wait)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(CONNECTIONS)
    return listener, lock


def _lock(path: Path, wait: bool) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if not wait:
            raise
        _say(f"another one listens on {path}: this one is there when it ends")
        _tell_systemd()
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


def main() -> None:
    parser = argparse.ArgumentParser(prog="modelpack-keeper", description=__doc__)
    parser.add_argument(
        "--socket",
        type=Path,
        default=Path("/run/modelpack-snapshotter/keeper.sock"),
        help="where to listen; [keeper] address of the daemon (default: %(default)s)",
    )
    parser.add_argument(
        "--linger",
        action="store_true",
        help=f"end after {LINGER:g} s without anything to hold and anybody connected",
    )
    parser.add_argument(
        "--background",
        metavar="CGROUP.PROCS",
        nargs="?",
        const="",
        help="return once it listens and go on in a session of its own, and in the control "
        "group of the given file if there is one",
    )
    options = parser.parse_args()
    try:
        listener, lock = listen(options.socket, wait=not options.linger)
    except BlockingIOError:
        parser.exit(IN_USE, f"modelpack-keeper: another one listens on {options.socket}\n")
    except OSError as error:
        parser.exit(1, f"modelpack-keeper: cannot listen on {options.socket}: {error}\n")
    if options.background is not None:
        _leave(options.background)
    _tell_systemd()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except OSError:
        pass  # its unit allows no such call, and has set the limit
    os.chdir("/")
    keeper = Keeper(listener, linger=LINGER if options.linger else None)
    try:
        keeper.serve()
    finally:
        options.socket.unlink(missing_ok=True)
        keeper.close()
        os.close(lock)


def _tell_systemd() -> None:
    """That it may go on with the daemon, whose keeper is there."""
    try:
        notify("READY=1")
    except OSError as error:
        _say(f"systemd not told: {error}")


def _say(words: str) -> None:
    print(f"modelpack-keeper: {words}", file=sys.stderr, flush=True)


def _leave(cgroup: str) -> None:
    """Go on as a child of nobody who could take us along when he ends."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if cgroup:
        try:
            Path(cgroup).parent.mkdir(exist_ok=True)
            Path(cgroup).write_text(str(os.getpid()))
        except OSError as error:
            _say(f"stays in its control group: {error}")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)


if __name__ == "__main__":
    main()
