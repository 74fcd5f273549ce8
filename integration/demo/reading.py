"""What happens in the container, and how long it takes by the container's own clock."""

from __future__ import annotations

import hashlib
import json
import shlex
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from integration.harness.container import Container
from snapshotter.units import format_size

_BLOCK = "bs=4M iflag=skip_bytes,count_bytes status=none"
_LARGEST_TENSOR = 64 << 20


class WrongBytes(Exception):
    """The container read something else than the source holds."""


@dataclass(frozen=True)
class Step:
    """One thing done, and when: seconds since the epoch."""

    name: str
    what: str
    started: float
    ended: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True)
class Part:
    """Some bytes of one file."""

    file: str
    offset: int
    size: int


class Reader:
    """Reads a model at ``directory`` in the container, and tells ``done`` of every step."""

    def __init__(
        self, container: Container, source: Path, directory: str, done: Callable[[Step], None]
    ) -> None:
        self._container = container
        self._source = source
        self._directory = directory
        self._done = done

    def run(self) -> None:
        """Everything, in the order in which model servers go about it."""
        where = shlex.quote(self._directory)
        files = sorted(p for p in self._source.rglob("*") if p.is_file())
        self._step("listing", f"a listing of {len(files)} files", f"ls -lR {where}")

        header, tensor = interesting_parts(self._source)
        self._read("header", "first bytes: a file's header", header)
        self._read("tensor", f"a tensor of {format_size(tensor.size)}", tensor)

        everything = (
            f"find {where} -type f | sort | "
            'while read -r f; do dd if="$f" of=/dev/null bs=4M status=none || exit 1; done'
        )
        self._step("whole", "whole model read", everything)
        self._step("second", "second read", everything)

    def compare(self, expected: str) -> None:
        """Raises :class:`WrongBytes` unless every file is as ``sha256sum`` saw the source."""
        seen = self._container.ask(sums_command(self._directory))
        compare_sums(seen, expected, self._directory)

    def _read(self, name: str, what: str, part: Part) -> None:
        path = shlex.quote(f"{self._directory}/{part.file}")
        seen = self._step(
            name, what, f"dd if={path} {_BLOCK} skip={part.offset} count={part.size} | sha256sum"
        )
        if seen.split()[0] != _digest_of(self._source, part):
            raise WrongBytes(f"{part} has sha256 {seen} in the container")

    def _step(self, name: str, what: str, command: str) -> str:
        clock = "date +%s.%N"
        written = self._container.ask(f"{clock} && {command} && {clock}")
        started, rest = written.split("\n", 1)
        output, _, ended = rest.rpartition("\n")
        self._done(Step(name, what, float(started), float(ended)))
        return output


def interesting_parts(source: Path) -> tuple[Part, Part]:
    """The header of a safetensors file, and one of its tensors, from the middle of the model.

    Of other formats: the first 64 KiB of the largest file, and 4 MiB of its middle.
    """
    shards = sorted(source.rglob("*.safetensors"))
    if not shards:
        largest = max((p for p in source.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        name, size = str(largest.relative_to(source)), largest.stat().st_size
        return Part(name, 0, min(size, 64 << 10)), Part(name, size // 2, min(size // 2, 4 << 20))
    shard = shards[len(shards) // 2]
    name = str(shard.relative_to(source))
    with shard.open("rb") as file:
        # https://github.com/huggingface/safetensors#format
        (length,) = struct.unpack("<Q", file.read(8))
        tensors = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    spans = sorted(tuple(tensor["data_offsets"]) for tensor in tensors.values())
    small = [span for span in spans if span[1] - span[0] <= _LARGEST_TENSOR]
    middle = small[len(small) // 2 :] or small or [(0, 0)]
    start, end = max(middle[:8], key=lambda span: span[1] - span[0])
    return Part(name, 0, 8 + length), Part(name, 8 + length + start, end - start)


def compare_sums(seen: str, expected: str, directory: str) -> None:
    """Raises :class:`WrongBytes` unless two outputs of :func:`sums_command` say the same."""
    different = sorted(set(expected.splitlines()) ^ set(seen.splitlines()))
    if different:
        raise WrongBytes(f"sha256 of {directory} differs from the source: {'; '.join(different)}")


def sums_command(directory: str) -> str:
    """A shell command that prints the sha256 of every file, in no particular order."""
    return f"cd {shlex.quote(directory)} && find . -type f -print0 | xargs -0 -n 1 -P 2 sha256sum"


def _digest_of(source: Path, part: Part) -> str:
    with (source / part.file).open("rb") as file:
        file.seek(part.offset)
        return hashlib.sha256(file.read(part.size)).hexdigest()
