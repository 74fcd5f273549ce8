from __future__ import annotations

import signal

import pytest

from fuse.interrupts import is_dying


def status(**masks: int) -> str:
    names = {"SigPnd": 0, "ShdPnd": 0, "SigBlk": 0, "SigIgn": 0, "SigCgt": 0} | masks
    return "Name:\tx\n" + "".join(f"{name}:\t{mask:016x}\n" for name, mask in names.items())


def bit(number: int) -> int:
    return 1 << number - 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_pending_signal_without_a_handler_ends_a_thread(number: int) -> None:
    assert is_dying(status(SigPnd=bit(number)))
    assert is_dying(status(ShdPnd=bit(number)))


@pytest.mark.parametrize("number", [signal.SIGCHLD, signal.SIGURG, signal.SIGSTOP])
def test_some_signals_do_no_harm(number: int) -> None:
    assert not is_dying(status(SigPnd=bit(number)))


@pytest.mark.parametrize("mask", ["SigBlk", "SigIgn", "SigCgt"])
def test_a_signal_that_is_blocked_ignored_or_caught_does_no_harm(mask: str) -> None:
    number = bit(signal.SIGALRM)
    assert not is_dying(status(ShdPnd=number, **{mask: number}))


def test_a_thread_without_pending_signals_lives() -> None:
    assert not is_dying(status())
    assert not is_dying("")
