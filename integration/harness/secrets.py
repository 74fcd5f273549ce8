"""Whether a secret of the tests came out: in a file, a log, an answer or the list of processes.

Every password, token, signature and header that a test gives to the programs holds one of
:data:`MARKS`. So it is enough to look for those, as they are and inside of base64, in all that
the programs wrote. What a test wrote itself for a program to read is :data:`GIVEN`.
"""

from __future__ import annotations

import base64
import json
import os
import select
import subprocess
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

MARKS = ("Tr0mbone", "hunter2", "alice-password", "planted-")
GIVEN = (
    "config.json",  # Docker's
    ".dockerconfigjson",
    "hosts.toml",
    "*credential-*",  # helpers and providers
)
"""Names of files that must hold secrets."""
_ENDS = 8 << 20
"""Bytes at the beginning and the end of a file that are looked at; in between are models."""
_SAMPLE = 64 << 10
"""Bytes of a file, behind as many, by which weights are known: tests make them at random, so that
they cannot be compressed. All else that programs write can."""
_TOLD_BY_TESTS = b"\0--user\0"
"""How tests give a password to other people's programs (ctr)."""


class SecretFound(AssertionError):
    """A secret is where everybody may read it."""


class Guard:
    """Looks for texts that hold one of ``marks``."""

    def __init__(self, marks: Iterable[str] = MARKS) -> None:
        self._patterns = [pattern for mark in marks for pattern in _forms(mark.encode())]

    def holds(self, text: bytes | str) -> bool:
        """Whether a secret is in it."""
        raw = text if isinstance(text, bytes) else text.encode(errors="replace")
        return any(pattern in raw for pattern in self._patterns)

    def check(self, text: bytes | str, where: str) -> None:
        """Raises :class:`SecretFound`, without the secret."""
        if self.holds(text):
            raise SecretFound(f"a secret came out in {where}")

    def files(self, directory: Path, given: Sequence[str] = GIVEN) -> list[Path]:
        """Files below ``directory`` that hold a secret and should not."""
        return [
            path
            for path in _regular(directory)
            if not any(path.match(pattern) for pattern in given) and self.holds(_ends(path))
        ]

    def programs(self, below: int) -> list[str]:
        """Programs that the process ``below`` or its children started, with a secret in their
        arguments, which everybody can list."""
        found = []
        for program in Path("/proc").glob("[0-9]*"):
            try:
                arguments = (program / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended
            if (
                self.holds(arguments)
                and _TOLD_BY_TESTS not in arguments
                and below in _ancestors(int(program.name))
            ):
                found.append(f"{program.name} ({arguments.partition(bytes(1))[0].decode()})")
        return found


class Watch:
    """Looks at the list of processes again and again, from :meth:`start` to :meth:`stop`.

    In a process of its own: tests count the threads and open files of ours.
    """

    def __init__(self, marks: Iterable[str] = MARKS, *, every: float = 0.5) -> None:
        """``every``: seconds."""
        self._told = json.dumps({"marks": list(marks), "every": every})

    def start(self) -> None:
        """Returns once it looks."""
        self._program = subprocess.Popen(
            [sys.executable, "-m", "integration.harness.secrets"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,  # Ctrl-C is for the tests
        )
        assert self._program.stdin is not None
        assert self._program.stdout is not None
        print(self._told, file=self._program.stdin, flush=True)
        self._program.stdout.readline()

    def stop(self) -> list[str]:
        """The programs that had a secret among their arguments."""
        output, _ = self._program.communicate(timeout=60)
        return sorted(set(output.splitlines()))


def main() -> None:
    """Print what is found until the standard input ends."""
    told = json.loads(sys.stdin.readline())
    guard = Guard(told["marks"])
    print(flush=True)
    over = False
    while not over:
        for found in guard.programs(os.getppid()):
            print(found, flush=True)
        over = bool(select.select([sys.stdin], [], [], told["every"])[0])


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        try:
            # Behind the name, which may hold anything: state, then the parent.
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def _forms(mark: bytes) -> Iterator[bytes]:
    """``mark`` as it is, and the part of its base64 that is the same whatever is around it."""
    yield mark
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + mark)
        first = (before * 8 + 5) // 6
        last = (before + len(mark)) * 8 // 6
        yield encoded[first:last]


def _regular(directory: Path) -> Iterator[Path]:
    for root, _, names in os.walk(directory):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _ends(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            start = file.read(2 * _SAMPLE)
            if len(zlib.compress(start[_SAMPLE:], level=1)) > _SAMPLE:
                return start
            start += file.read(_ENDS - len(start))
            if len(start) < _ENDS:
                return start
            file.seek(-min(_ENDS, os.fstat(file.fileno()).st_size - _ENDS), os.SEEK_END)
            return start + file.read(_ENDS)
    except OSError:
        return b""  # it has gone


if __name__ == "__main__":
    main()
