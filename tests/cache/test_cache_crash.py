"""SIGKILL at any moment: every byte a map claims afterwards is the source's.

The writer is another process that writes and flushes at random as fast as it can.
After each kill the data file also loses everything no map vouches for, as after a
power cut; a map that ran ahead of the data would claim some of it.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import Blob

ROUNDS = 40
SIZE = 4 << 20
WRITER = """
import random, sys, threading
from pathlib import Path
from snapshotter.artifact.digest import Digest
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.units import Seconds
root, source, digest, seed = sys.argv[1:]
content = Path(source).read_bytes()
store = BlobStore(Path(root), CacheOptions(flush_interval=Seconds(0.001)))
blob = store.open(Digest(digest), len(content))
print("writing", flush=True)
def write(rng):
    while True:
        start = rng.randrange(len(content))
        blob.write(start, content[start : start + rng.randrange(1, 100_000)])
for number in range(2):
    threading.Thread(target=write, args=(random.Random(seed + str(number)),)).start()
"""


def test_a_killed_writer_leaves_a_map_that_claims_only_right_bytes(tmp_path) -> None:
    content = os.urandom(SIZE)
    digest = digest_of(content)
    source = tmp_path / "source"
    source.write_bytes(content)
    rng = random.Random(0)
    survived = 0
    for seed in range(ROUNDS):
        root = tmp_path / f"cache-{seed % 4}"  # some rounds go on where one was killed
        killed_writer(root, source, digest, str(seed), after=rng.random() * 0.03)
        blob = Blob(root / "blobs/sha256" / digest[7:], digest, SIZE)
        claimed = blob.present
        for start, end in claimed:
            assert blob.pread(start, end - start) == content[start:end]
        for start, end in blob.missing(0, SIZE):
            os.pwrite(blob.fileno(), bytes(end - start), start)
        survived += claimed.total > 0
        if claimed.total > SIZE * 3 // 4:
            (blob.path.parent / "map").unlink()  # begin again, or all would soon be there
    assert survived > ROUNDS // 4, "the writer was never killed in the middle of its work"


def killed_writer(root: Path, source: Path, digest: str, seed: str, after: float) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, root, source, digest, seed], stdout=subprocess.PIPE
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"writing\n"
    time.sleep(after)
    writer.kill()
    writer.wait()
    writer.stdout.close()
