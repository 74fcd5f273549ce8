"""A process that does everything to a cache, at random and at once, until it ends or is ended.

Alone: ``cache_storm.py ROOT SEED STEPS``; it then looks whether memory tells the truth, and
ends with 3 where it does not. ``cache_storm.py --serve`` forks one for each line ``ROOT SEED
SECONDS`` on standard input, kills it so long after it began, and says so.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path

from snapshotter.artifact.digest import Digest, algorithm, digest_of, encoded
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.cache.errors import CacheError
from snapshotter.cache.eviction import Kind
from snapshotter.cache.evictor import Evictor
from snapshotter.cache.files import BlobFiles
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.units import Capacity, Seconds
from snapshotter.unpack.content import Content

SIZE = 1 << 20
CONTENTS = [random.Random(n).randbytes(SIZE) for n in range(5)]
DIGESTS = [digest_of(content) for content in CONTENTS]
POISONED = CONTENTS[3]
"""Bytes of this one are written wrong now and then, as a registry may give them."""
_OPTIONS = CacheOptions(
    flush_interval=Seconds(0.002),
    quota=Capacity("4MiB"),
    keep_free=Capacity("0%"),
    in_use=Seconds(0),
)


class Storm:
    def __init__(self, root: Path, seed: str) -> None:
        self.store = BlobStore(root, _OPTIONS)
        self.evictor = Evictor(self.store, huge=SIZE // 2)
        self.seed = seed
        self.blobs: list[Blob | None] = []
        for digest in DIGESTS[:4]:
            try:
                self.blobs.append(self.store.open(digest, SIZE))
            except CacheError:
                self.blobs.append(None)  # the disk refused

    def run(self, steps: int | None) -> None:
        work = (self._write, self._write, self._meddle, self._come_and_go, self._unpack)
        threads = [
            threading.Thread(target=self._repeat, args=(step, f"{self.seed}-{n}", steps))
            for n, step in enumerate(work)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _repeat(self, step, seed: str, steps: int | None) -> None:
        rng = random.Random(seed)
        done = 0
        while steps is None or done < steps:
            done += 1
            try:
                step(rng)
            except (CacheError, OSError):
                continue  # refused: what counts is what is said to be there

    def _write(self, rng: random.Random) -> None:
        number = rng.randrange(4)
        blob = self.blobs[number]
        if blob is None:
            return
        start = rng.randrange(SIZE)
        data = CONTENTS[number][start : start + rng.randrange(1, 200_000)]
        if number == 3 and rng.randrange(4) == 0:
            data = bytes(byte ^ 1 for byte in data[:100]) + data[100:]
        blob.write(start, data, passing=rng.randrange(2) == 0)

    def _meddle(self, rng: random.Random) -> None:
        blob = self.blobs[rng.randrange(4)]
        if blob is None:
            return
        start = rng.randrange(SIZE)
        end = min(SIZE, start + rng.randrange(1, SIZE))
        match rng.randrange(8):
            case 0 | 1:
                blob.evict([(start, end)])
            case 2:
                blob.evict([(0, SIZE)])
            case 3:
                blob.drop(start, end)
            case 4:
                blob.lose()
            case 5:
                blob.flush()
            case 6:
                self._complete(blob)
            case 7:
                self.evictor.make_room()

    def _complete(self, blob: Blob) -> None:
        """What is verified is lent, and then stays."""
        number = DIGESTS.index(blob.digest)
        if number != 3:
            for start, end in blob.missing(0, SIZE):
                blob.write(start, CONTENTS[number][start:end])
        if blob.complete and blob.verify():
            blob.flush()
            if (lent := blob.lend()) is not None:
                evicted = blob.evict([(0, SIZE)])
                same = os.pread(lent, SIZE, 0) == CONTENTS[number]
                os.close(lent)
                if evicted or not same:
                    os._exit(4)
        if blob.state is BlobState.BAD:
            blob.forgive()

    def _come_and_go(self, rng: random.Random) -> None:
        """A blob that nobody keeps open is removed."""
        blob = self.store.open(DIGESTS[4], SIZE)
        start = rng.randrange(SIZE)
        blob.write(start, CONTENTS[4][start : start + 300_000])
        blob.flush()
        del blob
        self.store.flush()
        if rng.randrange(2):
            self.store.remove(DIGESTS[4])

    def _unpack(self, rng: random.Random) -> None:
        number = rng.randrange(2)
        held = self.store.hold(DIGESTS[number])
        directory = self.store.directory(DIGESTS[number], Kind.UNPACKED)
        content = Content(directory, DIGESTS[number], None, held)
        if content.record is None:
            for start in range(0, SIZE, 300_000):
                content.append(unpacked(number)[start : start + 300_000])
            content.finish(Digest(f"sha256:{hashlib.sha256(unpacked(number)).hexdigest()}"))
        elif rng.randrange(2):
            content.clear()
        del content, held
        if rng.randrange(2):
            self.store.remove(DIGESTS[number], Kind.UNPACKED)

    def tells_the_truth(self) -> bool:
        """Whether what memory says is there can be read, and is right."""
        for number, blob in enumerate(self.blobs[:3]):
            for start, end in blob.present if blob is not None else ():
                try:
                    if blob.pread(start, end - start) != CONTENTS[number][start:end]:
                        return False
                except CacheError:
                    continue
        return True


def unpacked(number: int) -> bytes:
    return CONTENTS[number][::-1]


def check(root: Path, *, lose_unclaimed: bool) -> int:
    """Every byte that the maps below ``root`` claim is the source's; how many there are.

    ``lose_unclaimed``: bytes that nobody vouches for become others, so that a later map which
    claims them without having written them is found out.
    """
    claimed = 0
    for number, digest in enumerate(DIGESTS):
        directory = root / "blobs" / algorithm(digest) / encoded(digest)
        if directory.is_dir():
            claimed += _check_blob(directory, number, lose_unclaimed=lose_unclaimed)
        directory = root / "unpacked" / algorithm(digest) / encoded(digest)
        if (directory / "done").exists():
            content = Content(directory, digest)
            if content.record is not None:
                assert content.read(0, SIZE) == unpacked(number)
                claimed += SIZE
    return claimed


def _check_blob(directory: Path, number: int, *, lose_unclaimed: bool) -> int:
    files = BlobFiles(directory, DIGESTS[number], SIZE)
    known = files.known
    ranges = known.ranges if known is not None else []
    data = os.pread(files.fd, SIZE, 0)
    at = 0
    for start, end in [*ranges, (SIZE, SIZE)]:
        if lose_unclaimed:
            os.pwrite(files.fd, b"?" * (start - at), at)
        at = end
        right = CONTENTS[number] if number != 3 or (known and known.verified) else data
        assert data[start:end] == right[start:end], f"{DIGESTS[number]} at {start}-{end}"
    return sum(end - start for start, end in ranges)


def _serve() -> None:
    for line in sys.stdin:
        root, seed, seconds = line.split()
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            try:
                storm = Storm(Path(root), seed)
                os.write(writing, b"begun")
                storm.run(None)
            finally:
                os._exit(5)
        os.close(writing)
        os.read(reading, 5)
        os.close(reading)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print("killed" if os.WIFSIGNALED(status) else f"ended {status}", flush=True)


def main() -> None:
    import structlog

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    if sys.argv[1:] == ["--serve"]:
        _serve()
        return
    root, seed, steps = sys.argv[1:]
    storm = Storm(Path(root), seed)
    storm.run(int(steps))
    storm.evictor.close()
    truth = storm.tells_the_truth()
    storm.store.close()
    sys.exit(0 if truth else 3)


if __name__ == "__main__":
    main()
