"""The threads that unpack compressed layers, whoever waits first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

import structlog

from snapshotter.artifact.digest import Digest, algorithm
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Archive
from snapshotter.artifact.tar import TarIndex
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.documents import DocumentError
from snapshotter.cache.errors import CacheError
from snapshotter.cache.eviction import Kind
from snapshotter.cache.indexes import TarIndexes
from snapshotter.cache.store import BlobStore
from snapshotter.errors import ModelpackError
from snapshotter.fetch.errors import FetchError
from snapshotter.fetch.fetcher import Fetcher, ReadResult
from snapshotter.registry.blobs import BlobOrigin
from snapshotter.unpack.at_random import read_frames, read_index
from snapshotter.unpack.content import Content
from snapshotter.unpack.errors import UnpackError, WrongLayer
from snapshotter.unpack.frame_reader import FramePool, FrameReader
from snapshotter.unpack.inflate import Dry
from snapshotter.unpack.options import UnpackOptions
from snapshotter.unpack.stream import Stream, index_content
from snapshotter.unpack.task import Task
from snapshotter.unpack.unpacked import Unpacked

log = structlog.get_logger(__name__)

_PAUSE = 5.0
"""Seconds until a layer is tried again that nobody waits for and that did not go on."""
_LOOK = 0.2
_JOIN = 5.0


class _Closing(Exception):
    """The unpacker ends."""


class Unpacker:
    """Compressed layers of all models, each unpacked once. Thread-safe.

    ``on_bad`` is told when what was served of a blob turned out to be wrong. Threads begin
    with the first layer; close it before the fetcher.
    """

    def __init__(
        self,
        store: BlobStore,
        fetcher: Fetcher,
        options: UnpackOptions,
        on_bad: Callable[[Blob], None] = lambda _: None,
    ) -> None:
        self._indexes = TarIndexes(store.root / "indexes")
        self._store = store
        self._fetcher = fetcher
        self._options = options
        self._on_bad = on_bad
        self._frames = FramePool(options.threads, options.frame_memory)
        self._tasks: dict[Digest, Task] = {}
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        self._closed = False

    def claim(self, archive: Archive, origin: BlobOrigin, diff_id: Digest | None) -> Unpacked:
        """The content of ``archive``, being unpacked unless it was already.

        ``diff_id`` is what the model's config says it hashes to. Let go of it with
        :meth:`release`. Raises :class:`CacheError`, and :class:`ArtifactError` when it was
        unpacked and is known to hash to something else.
        """
        digest = archive.descriptor.digest
        blob = self._store.open(digest, archive.descriptor.size)
        with self._lock:
            if self._closed:
                raise UnpackError("no layer can be unpacked: the unpacker is closed")
            task = self._tasks.get(digest)
            if task is None:
                task = self._tasks[digest] = self._begin(archive, blob, diff_id)
            else:
                task.claims += 1
            unpacked = task.unpacked
            if unpacked.stream is not None:
                task.sources.insert(0, self._fetcher.add_model([(blob, origin)]))
                task.paused_until = 0.0
                self._start_threads()
                self._work.notify()
        return unpacked

    def release(self, unpacked: Unpacked, *, go_on: bool = False) -> None:
        """Let go of it. Nobody left: it is unpacked no further, unless told to ``go_on``."""
        with self._lock:
            digest = unpacked.archive.descriptor.digest
            task = self._tasks.get(digest)
            if task is None or task.unpacked is not unpacked:
                return
            task.claims -= 1
            task.lingers = task.lingers or go_on
            if not task.wanted and not task.busy:
                self._forget(digest, task)

    def close(self) -> None:
        """Fail who waits, and end the threads. Idempotent."""
        with self._lock:
            self._closed = True
            tasks, self._tasks = self._tasks, {}
            self._work.notify_all()
        patience = time.monotonic() + _JOIN
        for thread in self._threads:
            thread.join(max(0.0, patience - time.monotonic()))
        for task in tasks.values():
            self._drop(task)
        self._frames.close()

    def _begin(self, archive: Archive, blob: Blob, diff_id: Digest | None) -> Task:
        digest = archive.descriptor.digest
        content = Content(
            self._store.directory(digest, Kind.UNPACKED),
            digest,
            self._store.space,
            self._store.hold(digest),
        )
        # Known as soon as the last header has passed: a daemon that was killed then shows
        # the model again at once, though it has to unpack it anew.
        index, stream = self._indexes.get(digest), None
        if content.record is not None:
            _check_diff_id(archive, content.record.diff_id, diff_id)
            index = index or self._index_again(archive, content)
        else:
            stream = Stream(archive, content, diff_id, self._options.max_ratio)
        return Task(Unpacked(archive, blob, content, index, stream, self._wake), [])

    def _index_again(self, archive: Archive, content: Content) -> TarIndex:
        index = index_content(content, archive.where)
        self._keep_index(archive.descriptor.digest, index)
        return index

    def _keep_index(self, digest: Digest, index: TarIndex) -> None:
        try:
            self._indexes.put(digest, index)
        except DocumentError as error:
            log.warning("index not kept", digest=digest, error=str(error))

    def _forget(self, digest: Digest, task: Task) -> None:
        """With the lock held: nobody has it, no thread works on it."""
        if self._tasks.get(digest) is task:
            del self._tasks[digest]
        self._drop(task)

    def _drop(self, task: Task) -> None:
        for source in task.sources:
            self._fetcher.remove_model(source)
        task.sources.clear()
        self._frames.forget(task.unpacked.archive.descriptor.digest)
        task.unpacked.closed()

    def _wake(self) -> None:
        with self._lock:
            self._work.notify()

    # Threads

    def _start_threads(self) -> None:
        if not self._threads:
            self._threads = [
                threading.Thread(target=self._run, name=f"modelpack-unpack-{number}", daemon=True)
                for number in range(self._options.threads)
            ]
            for thread in self._threads:
                thread.start()

    def _run(self) -> None:
        while (task := self._next()) is not None:
            try:
                self._step(task)
            except _Closing:
                pass
            except Exception:
                log.exception("unpacking failed unexpectedly", layer=task.unpacked.archive.where)
                self._fail(task, UnpackError(f"{task.unpacked.archive.where}: see the log"))
            finally:
                self._stepped(task)

    def _next(self) -> Task | None:
        """Wait for a layer to go on with; None at the end."""
        with self._lock:
            while not self._closed:
                now = time.monotonic()
                ready = [task for task in self._tasks.values() if task.runs(now)]
                if ready:
                    # Who waits comes first, then those begun first.
                    task = max(ready, key=lambda task: task.unpacked.urgency)
                    task.busy = True
                    return task
                pauses = [task.paused_until - now for task in self._tasks.values() if task.open]
                self._work.wait(max(0.0, min(pauses)) if pauses else None)
            return None

    def _stepped(self, task: Task) -> None:
        with self._lock:
            task.busy = False
            unpacked = task.unpacked
            if unpacked.stream is None:
                task.lingers = False
                for source in task.sources:
                    self._fetcher.remove_model(source)
                task.sources.clear()
            if not task.wanted:
                self._forget(unpacked.archive.descriptor.digest, task)

    def _step(self, task: Task) -> None:
        unpacked = task.unpacked
        stream = unpacked.stream
        assert stream is not None
        attempt = unpacked.attempt()
        try:
            if unpacked.failure is not None:
                self._drain(task, stream)
                return
            if not task.looked:
                self._look_for_frames(task)
                return
            try:
                more = stream.step()
            except Dry:
                stream.feed(self._fetch(task, stream))
                task.paused_until = 0.0
                return
            task.paused_until = 0.0
            unpacked.advanced()
            if stream.index is not None and not (task.indexed and more):
                task.indexed = True
                self._keep_index(unpacked.archive.descriptor.digest, stream.index)
        except (FetchError, CacheError) as error:
            task.paused_until = time.monotonic() + _PAUSE
            with self._lock:  # in between there may be none
                task.sources.append(task.sources.pop(0))
            log.warning("unpacking does not go on", error=str(error), next_attempt_in=_PAUSE)
            if unpacked.failure is not None:
                unpacked.closed()
            elif unpacked.blob.state is BlobState.BAD:
                # The fetcher hashed it first. What came out until now is as wrong.
                self._fail(task, WrongLayer(f"{unpacked.archive.where}: {error}"))
            else:
                unpacked.troubled(error, attempt)
        except (ArtifactError, UnpackError) as error:
            self._fail(task, error)

    def _fail(self, task: Task, error: ModelpackError) -> None:
        # The mount that waits for it fails with this error, and reads that do log it themselves.
        log.info("a compressed layer cannot be served", error=str(error))
        self._indexes.remove(task.unpacked.archive.descriptor.digest)
        task.unpacked.failed(error)
        self._on_bad(task.unpacked.blob)

    def _drain(self, task: Task, stream: Stream) -> None:
        """Fetch the rest of a layer that is malformed: the fetcher then finds out whether wrong
        bytes came, which must not stay in the cache, or whether it is really so."""
        if stream.wanted:
            stream.skip(self._fetch(task, stream))
        else:
            task.unpacked.closed()

    def _look_for_frames(self, task: Task) -> None:
        """Find out whether it can be read at random; then its names are known at once."""
        unpacked = task.unpacked
        archive, digest = unpacked.archive, unpacked.blob.digest
        frames = read_frames(
            unpacked.blob.size,
            lambda start, end: self._wait(task, partial(self._read, task, start, end)),
        )
        task.looked = True
        if frames is None:
            return
        reader = FrameReader(digest, archive.where, frames, partial(self._read, task), self._frames)
        index = unpacked.index_known
        if index is None:
            try:
                index = read_index(
                    frames,
                    archive.where,
                    lambda start, end: self._wait(task, partial(reader.read, start, end)),
                )
            except ArtifactError as error:
                # What is really wrong with it the stream finds out.
                log.warning("a compressed layer is not read at random", error=str(error))
                return
            if index is not None:
                self._keep_index(digest, index)
        unpacked.read_at_random(reader, index)

    def _fetch(self, task: Task, stream: Stream) -> bytes:
        """The next compressed bytes of the stream. Waits; :class:`FetchError`, _Closing."""
        if not stream.wanted:
            return b""
        blob = task.unpacked.blob
        start, size, name = stream.taken, stream.wanted, ("unpack", blob.digest)
        return self._wait(
            task,
            lambda deliver: self._fetcher.read(task.sources[0], blob, start, size, name, deliver),
        )

    def _read(
        self, task: Task, start: int, end: int, deliver: Callable[[ReadResult], None]
    ) -> None:
        """Ask for compressed bytes that say nothing of what will be read next."""
        with self._lock:
            source = task.sources[0] if task.sources else None
        if source is None:
            deliver(FetchError(f"{task.unpacked.archive.where}: not read any further: let go of"))
        else:
            self._fetcher.read(source, task.unpacked.blob, start, end - start, None, deliver)

    def _wait(self, task: Task, ask: Callable[[Callable[..., None]], None]) -> bytes:
        """What ``ask`` is answered. :class:`_Closing` when nobody wants it any more."""
        answered = threading.Event()
        answer: list[bytes | Exception] = []

        def deliver(result: ReadResult | bytes | ModelpackError) -> None:
            if isinstance(result, (bytes, ModelpackError)):
                answer.append(result)
            else:
                answer.append(b"".join(result))
            answered.set()

        ask(deliver)
        while not answered.wait(_LOOK):
            if self._closed or not task.wanted:
                raise _Closing
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]


def _check_diff_id(archive: Archive, known: str, said: Digest | None) -> None:
    if said in (None, known, archive.descriptor.digest) or said is None:
        return
    if algorithm(said) == algorithm(Digest(known)):
        raise ArtifactError(
            f"{archive.where}: decompressed it hashes to {known}, but the model's config says "
            f"{said}: refused; build the model again"
        )
