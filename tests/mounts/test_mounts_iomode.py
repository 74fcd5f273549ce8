from __future__ import annotations

from snapshotter.mounts.iomode import IoModes


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
