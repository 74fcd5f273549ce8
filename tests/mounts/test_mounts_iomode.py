from __future__ import annotations

from fuse.tree import RENEWED
from snapshotter.mounts.iomode import IoModes
from snapshotter.mounts.ledger import CACHED, GIVEN, UNUSED, Ledger, backing_of, closed


def test_a_file_that_is_not_ready_is_opened_through_the_page_cache() -> None:
    modes = IoModes()
    assert modes.open(7, ready=False) is False
    assert modes.cached(7)


def test_a_file_that_is_ready_and_closed_is_opened_with_passthrough() -> None:
    modes = IoModes()
    assert modes.open(7, ready=True) is True
    assert not modes.cached(7)


def test_a_file_somebody_holds_the_slow_way_stays_slow_until_it_is_closed() -> None:
    modes = IoModes()
    modes.open(7, ready=False)
    assert modes.open(7, ready=True) is False
    modes.release(7)
    assert modes.open(7, ready=True) is False
    modes.release(7)
    modes.release(7)
    assert modes.open(7, ready=True) is True


def test_a_file_open_with_passthrough_is_never_opened_otherwise() -> None:
    modes = IoModes()
    modes.open(7, ready=True)
    assert modes.open(7, ready=False) is True
    modes.release(7)
    modes.release(7)
    assert modes.open(7, ready=False) is False


def test_nodeids_do_not_know_of_each_other() -> None:
    modes = IoModes()
    modes.open(7, ready=False)
    assert modes.open(8, ready=True) is True
    assert not modes.cached(8)


def test_what_an_earlier_life_had_open_stays_as_it_was_opened() -> None:
    modes = IoModes()
    modes.inherit(7, CACHED)
    modes.inherit(8, 3)
    modes.inherit(9, UNUSED)
    modes.inherit(10 | RENEWED, GIVEN)
    assert modes.open(7, ready=5) is False
    modes.release(7)
    assert modes.open(7, ready=5) is False
    assert modes.cached(7)
    assert modes.open(8, ready=3) is True
    assert modes.open(9, ready=5) is True
    assert modes.open(10 | RENEWED, ready=5) is True


def test_a_successor_learns_what_is_open_before_anybody_could_have_opened_it() -> None:
    ledger = Ledger.make(9)
    modes = IoModes(ledger)
    modes.open(7, ready=0)
    modes.open(8, ready=3)
    modes.open(9 | RENEWED, ready=0)
    other = Ledger(ledger.fd, 9)
    assert [other[7], other[8], other[9], other[9 | RENEWED]] == [CACHED, 3, UNUSED, CACHED]
    for nodeid in (7, 8, 9 | RENEWED):
        modes.release(nodeid)
    # A backing id is good as long as the mount.
    assert [other[7], other[8], other[9 | RENEWED]] == [UNUSED, closed(3), GIVEN]
    assert backing_of(other[8]) == 3
    assert not any(map(backing_of, (UNUSED, CACHED, GIVEN)))
    ledger.close()


def test_a_successor_does_not_open_a_backing_file_that_was_found_wrong() -> None:
    ledger = Ledger.make(4)
    modes = IoModes(ledger)
    assert modes.open(2, ready=7)
    assert modes.open(3 | RENEWED, ready=7)
    assert not modes.open(4, ready=0)
    for nodeid in (2, 3, 4):
        ledger.forget_backing(nodeid)
    assert (ledger[2], ledger[3 | RENEWED], ledger[4]) == (UNUSED, GIVEN, CACHED)
    ledger.close()


def test_a_successor_knows_that_nodeids_are_to_stay() -> None:
    ledger = Ledger.make(4)
    assert not ledger.nodeids_stay
    ledger.keep_nodeids()
    assert Ledger(ledger.fd, 4).nodeids_stay
    assert ledger.negotiated is None
    ledger.close()
