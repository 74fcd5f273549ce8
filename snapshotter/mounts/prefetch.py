"""Fetching what every reader of a model begins with, while nobody reads yet.

Small files and the first bytes of weights are asked for at once; then each header is read to
its end, a few at a time, and what it says of tensors is passed on to the fetcher. All this is
driven by the bytes that arrive: there is a thread only while there is something to work on.
What goes wrong is no more than logged, since whoever reads those bytes meets it himself.
"""

from __future__ import annotations

import threading
from array import array
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import structlog

from snapshotter.artifact.layout import File
from snapshotter.artifact.tar import Want
from snapshotter.cache.blob import Blob
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher, ReadResult
from snapshotter.mounts.loader import Model
from snapshotter.mounts.options import MountOptions
from snapshotter.mounts.plans import Plan, blob_order, boundaries, plan_of
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.index import TensorIndex
from snapshotter.tensors.shards import ShardIndex, parse_shard_index

log = structlog.get_logger(__name__)

_AT_ONCE = 4
"""Headers that are read at a time: a reader's bytes wait for no more requests than these."""
_HEADER_LIMIT = 32 << 20
"""Bytes of one header; what is larger is left to whoever wants it."""
_PIECES = 1_000_000
"""Boundaries of tensors in one model that are kept, 8 bytes each."""

_Steps: TypeAlias = Generator[Want, bytes, Any]


@dataclass(slots=True, eq=False)
class _Reading:
    """A file that is read to find out what it says; ``steps`` return what that is."""

    file: File
    steps: _Steps
    tell: Callable[[File, Any], None]


class Prefetch:
    """One model's. Thread-safe; :attr:`settled` is set when nothing more will be asked for."""

    def __init__(self, model: Model, fetcher: Fetcher, options: MountOptions) -> None:
        self.settled = threading.Event()
        self._model = model
        self._fetcher = fetcher
        self._options = options
        self._lock = threading.Lock()
        self._work: deque[Callable[[], None]] = deque()
        self._working = False
        self._stopped = False
        # Of the one thread that works at a time:
        self._waiting: deque[_Reading] = deque()
        self._reading = 0
        self._arranged = True
        """Whether the fetcher knows all that was learnt."""
        self._order: Sequence[Blob] = ()
        self._indexes: dict[str, ShardIndex] = {}
        self._pieces: dict[Blob, Sequence[int]] = {}
        self._kept = 0

    def start(self) -> None:
        """Begin, unless it is switched off. Returns at once."""
        if self._options.prefetch:
            self._do(self._begin)
        else:
            self.settled.set()

    def stop(self) -> None:
        """Ask for nothing more. Does not wait."""
        with self._lock:
            self._stopped = True
            self._work.clear()
        self.settled.set()

    # What is done, by one thread at a time

    def _begin(self) -> None:
        options = self._options
        plan = plan_of(
            self._model.plain,
            file_limit=options.prefetch_file,
            total_limit=options.prefetch_total,
        )
        blobs = self._model.blobs
        self._fetcher.prefetch(
            self._model.loaded, [(blobs[span.digest], span.start, span.end) for span in plan.spans]
        )
        self._arranged = False
        self._waiting.extend(_readings(plan, self._learn_order, self._learn_pieces))
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._reading < _AT_ONCE:
            self._reading += 1
            self._step(self._waiting.popleft(), None)

    def _step(self, reading: _Reading, data: bytes | None) -> None:
        """Send ``reading`` the bytes it asked for, and ask for the next ones."""
        try:
            want = next(reading.steps) if data is None else reading.steps.send(data)
        except StopIteration as done:
            self._reading -= 1
            reading.tell(reading.file, done.value)
        except ModelpackError as error:
            self._give_up(reading, error)
        else:
            self._read(reading, want)

    def _read(self, reading: _Reading, want: Want) -> None:
        file = reading.file

        def deliver(result: ReadResult) -> None:
            if isinstance(result, Exception):
                self._do(partial(self._give_up, reading, result))
            else:
                self._do(partial(self._step, reading, b"".join(result)))

        # Past any gate: it is only a hint, and no reason to fetch a chunk or a whole blob.
        blob, start = self._model.blobs[file.digest], file.offset + want.offset
        end = min(start + want.length, blob.size)
        self._fetcher.bring(self._model.loaded, blob, start, end, stream=None, deliver=deliver)

    def _give_up(self, reading: _Reading, error: Exception) -> None:
        log.debug(
            "not read ahead",
            model=str(self._model.ref),
            file=reading.file.path,
            error=str(error),
        )
        self._reading -= 1

    def _learn_order(self, file: File, index: ShardIndex) -> None:
        self._indexes[file.path] = index
        self._order = ()
        self._arranged = False

    def _learn_pieces(self, file: File, index: TensorIndex) -> None:
        blob = self._model.blobs[file.digest]
        # What the header's own steps passed over is wanted by whoever reads it.
        header = (blob, file.offset, file.offset + index.data_start)
        self._fetcher.prefetch(self._model.loaded, [header])
        found = boundaries(file, index)
        self._kept += len(found)
        if self._kept <= _PIECES:
            known = self._pieces.get(blob, ())  # a tar may have several files of weights
            self._pieces[blob] = array("Q", sorted({*known, *found})) if known else found
            self._arranged = False

    def _arrange(self) -> None:
        self._arranged = True
        if not self._order:
            blobs = self._model.blobs
            self._order = [blobs[d] for d in blob_order(self._model.plain, self._indexes)]
        self._fetcher.arrange(self._model.loaded, self._order, dict(self._pieces))

    # The thread

    def _do(self, work: Callable[[], None]) -> None:
        with self._lock:
            if self._stopped:
                return
            self._work.append(work)
            if self._working:
                return
            self._working = True
        threading.Thread(target=self._run, name="modelpack-prefetch", daemon=True).start()

    def _run(self) -> None:
        while self._work_on():
            pass

    def _work_on(self) -> bool:
        """Do the next thing there is to do; False when there is nothing, and the thread ends."""
        with self._lock:
            work = self._work.popleft() if self._work else None
            if work is None and (self._arranged or self._stopped):
                self._working = False
                if self._reading == 0:
                    self.settled.set()
                return False
        try:
            if work is None:
                self._arrange()
            else:
                work()
                self._go_on()
        except Exception:
            log.exception("prefetch failed unexpectedly", model=str(self._model.ref))
            self.stop()
        return True


def _readings(
    plan: Plan,
    learn_order: Callable[[File, ShardIndex], None],
    learn_pieces: Callable[[File, TensorIndex], None],
) -> list[_Reading]:
    found = [_Reading(file, _index_steps(file), learn_order) for file in plan.indexes]
    for file in plan.headers:
        indexer = indexer_of(file.path)
        if indexer is not None:
            steps = indexer(file.size, file.path, header_limit=_HEADER_LIMIT)
            found.append(_Reading(file, steps, learn_pieces))
    return found


def _index_steps(file: File) -> Generator[Want, bytes, ShardIndex]:
    raw = yield Want(0, file.size)
    return parse_shard_index(raw, file.path)
