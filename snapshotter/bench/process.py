"""Child processes: started, asked, and never left behind."""

from __future__ import annotations

import ctypes
import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from snapshotter.bench.errors import BenchError

_PATIENCE = 15.0
"""Seconds a child has to end by itself: a node unmounts and makes durable what it fetched."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_T = TypeVar("_T")


def die_with_parent() -> None:
    """For ``preexec_fn``: programs that are not ours do not notice that we are gone."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Child:
    """A program of :mod:`snapshotter.bench.children`, until the end of a ``with``."""

    def __init__(self, name: str, *arguments: str, bare: bool = False) -> None:
        """``bare``: without site-packages, for what must weigh nothing in a measurement."""
        self.name = name
        file = Path(__file__).with_name("children") / f"{name}.py"
        command = ["-I", "-S", str(file)] if bare else ["-m", f"snapshotter.bench.children.{name}"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # until close()
        self._process = subprocess.Popen(
            [sys.executable, *command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we end the children in order
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, **what: Any) -> dict[str, Any]:
        """Say one thing and wait for the answer. Raises :class:`BenchError`."""
        self.tell(what)
        return self.hear()

    def tell(self, what: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise BenchError(f"the {self.name} process is gone: {self._last_words()}") from None

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise BenchError(f"the {self.name} process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End of input, patience, then SIGKILL. Idempotent."""
        process = self._process
        if process.stdin is not None and not process.stdin.closed:
            try:
                process.stdin.close()
            except BrokenPipeError:
                pass
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            try:
                # Whoever sits in a read of our file system can die only after the node has.
                process.wait(1)
            except subprocess.TimeoutExpired:
                pass
        if process.stdout is not None:
            process.stdout.close()
        self._said.close()

    def _last_words(self) -> str:
        self._process.wait(_PATIENCE)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"status {self._process.returncode}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self._process.kill()  # Ctrl-C: whoever waits for bytes is not waited for
        self.close()


class Watch(Generic[_T]):
    """Looks at something every now and then, in a thread, until the end of a ``with``."""

    def __init__(self, look: Callable[[], _T], interval: float) -> None:
        self.seen: list[_T] = []
        self._look = look
        self._interval = interval
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-watch", daemon=True)

    def _run(self) -> None:
        while True:
            self.seen.append(self._look())
            if self._done.wait(self._interval):
                self.seen.append(self._look())
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def rss_anon_of(pid: int) -> int:
    """``RssAnon`` of proc_pid_status(5) in bytes; 0 when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0
