"""Programs that run beside a test: started, waited for until ready, stopped by pid."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

# The kernel kills the program when the thread that started it ends, however it ends.
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class ProcessError(Exception):
    """A program did not do what was expected; the message ends with what it wrote last."""


class Process:
    """A running program, its output in ``log``."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str] | None = None,
        through: Sequence[str] = (),
    ) -> None:
        """Start ``argv``. ``through`` is a command that runs it as its child, such as nsenter."""
        self.name = Path(argv[0]).name
        self.log = log
        self._through = bool(through)
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*DIES_WITH_US, *through, *(DIES_WITH_US if through else ()), *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=None if environment is None else dict(environment),
                # Ctrl-C is for us; we stop the programs in the right order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The program's own pid, as seen from here."""
        if not self._through:
            return self._popen.pid
        while not (children := children_of(self._popen.pid)) and self.running:
            time.sleep(0.001)  # what it runs through has yet to begin it
        return children[0] if children else self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def wait_until(self, ready: Callable[[], bool], what: str, *, seconds: float = 60) -> None:
        """Return once ``ready()``; raise when the program ends first or time runs out."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.running  # asked before: it may be ready, and end, in between
            if ready():
                return
            if not running:
                raise ProcessError(f"{self.name} ended before {what}{self.last_words()}")
            if time.monotonic() > deadline:
                raise ProcessError(f"{self.name}: no {what} in {seconds:g} s{self.last_words()}")
            time.sleep(0.01)

    def wait(self, seconds: float) -> int:
        """The exit status of a program expected to end by itself; killed when it does not."""
        try:
            return self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()  # or it would be the next test that fails too
            raise ProcessError(
                f"{self.name} still ran after {seconds:g} s{self.last_words()}"
            ) from None

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP: returns once it stands still."""
        pid = self.pid
        if not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            if number in (signal.SIGCONT, signal.SIGKILL):
                # nsenter stops when its child does, and would never see it end.
                os.kill(self._popen.pid, signal.SIGCONT)
        if number == signal.SIGSTOP:
            # nsenter too: a SIGCONT before it has stopped itself would come to nothing.
            both = {pid, self._popen.pid}
            self.wait_until(lambda: all(map(_stands_still, both)), "standstill")

    def stop(self, *, seconds: float = 30) -> None:
        """SIGTERM, and SIGKILL when that is not enough. Also when it has ended already."""
        self.signal(signal.SIGTERM)
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._popen.wait()

    def last_words(self) -> str:
        """The end of the log, as the end of an error message."""
        lines = self.log.read_text(errors="replace").splitlines()[-5:]
        return "".join(f"\n    {line}" for line in lines)


def kill_through(command: subprocess.Popen[str]) -> None:
    """Kill what nsenter runs. nsenter itself ends next, after it has reaped its child.

    The other way round the child would be left to the machine's process 1, which need
    not reap, in a container for instance; and the child's namespace lasts until somebody does.
    """
    if command.poll() is not None:
        return
    for pid in children_of(command.pid) or [command.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    os.kill(command.pid, signal.SIGCONT)


def _stands_still(pid: int) -> bool:
    """Whether all threads of the process are stopped."""
    try:
        stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # one has ended meanwhile
    return bool(stats) and all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)


def children_of(pid: int) -> list[int]:
    try:
        return [
            int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ]
    except OSError:
        return []


class Port:
    """A TCP port of the loopback interface that the kernel gives to nobody else until it is
    closed. Servers that set SO_REUSEADDR can listen there, one after the other."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()


def accepts(address: Path | tuple[str, int]) -> bool:
    """Whether somebody listens on the unix socket or TCP address."""
    family = socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.connect(str(address) if isinstance(address, Path) else address)
        except OSError:
            return False
        return True


@contextlib.contextmanager
def signals_unwind() -> Iterator[contextlib.ExitStack]:
    """Turn SIGINT, SIGTERM and SIGHUP into an exception, but for cleaning up.

    What is to be cleaned up goes into the stack. The first signal ends the body; while the
    stack unwinds, for whatever reason, signals are ignored.
    """
    caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def ignore() -> None:
        for number in caught:
            signal.signal(number, signal.SIG_IGN)

    def unwind(number: int, _: FrameType | None) -> None:
        ignore()
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, unwind) for number in caught}
    try:
        with contextlib.ExitStack() as resources:
            try:
                yield resources
            finally:
                ignore()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
