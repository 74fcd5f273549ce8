"""Which blob is hashed next, and that hashing makes way."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from snapshotter.artifact.digest import digest_of
from snapshotter.cache.blob import Blob, BlobState
from snapshotter.fetch.verifier import Verifier, choose

NEVER = float("inf")


@dataclass(eq=False)
class Named:
    name: str


A, B, C = Named("a"), Named("b"), Named("c")


@pytest.mark.parametrize(
    ("due", "urgent", "busy", "expected"),
    [
        ({}, [], False, None),
        ({A: NEVER}, [], False, A),
        ({A: NEVER}, [], True, None),
        ({A: 200.0}, [], True, None),
        ({A: 100.0}, [], True, A),
        ({A: NEVER, B: 200.0}, [], False, B),
        ({A: 100.0, B: NEVER}, [B], True, B),
        ({A: NEVER}, [B], True, None),
        ({A: NEVER, B: 200.0, C: 50.0}, [], False, C),
    ],
    ids=[
        "nothing",
        "a lull",
        "no lull",
        "complete, no lull",
        "waited long enough",
        "complete before partial",
        "somebody waits",
        "somebody waits for another",
        "the late one first",
    ],
)
def test_what_is_hashed_next(due, urgent, busy, expected) -> None:
    assert choose(due, urgent, 150.0, busy=busy) is expected


def test_hashing_makes_way_until_somebody_waits_for_it(tmp_path) -> None:
    content = bytes(range(256)) * 1000
    blob = Blob(tmp_path, digest_of(content), len(content))
    blob.write(0, content)
    asked, verified = threading.Semaphore(0), threading.Event()

    def busy() -> bool:
        asked.release()
        return True

    verifier = Verifier(lambda _: verified.set(), lambda *_: None, busy)
    verifier.put(blob)
    for _ in range(4):
        assert asked.acquire(timeout=60)
    assert blob.state is BlobState.COMPLETE
    verifier.urge(blob)
    assert verified.wait(60)
    verifier.close()
    assert blob.state is BlobState.VERIFIED
