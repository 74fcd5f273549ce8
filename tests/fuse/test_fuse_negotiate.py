from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.kernel import INIT_IN, INIT_IN_EXT, INIT_OUT, InitFlag
from fuse.negotiate import InitReply, InitRequest, SessionOptions, negotiate

EVERYTHING = ~InitFlag(0) & InitFlag((1 << 63) - 1)
OPTIONS = SessionOptions()


def offer(
    minor: int = 45, flags: InitFlag | int = EVERYTHING, *, major: int = 7, readahead: int = 131072
) -> InitRequest:
    return InitRequest(major, minor, readahead, InitFlag(flags))


def test_the_flags_of_an_immutable_file_system_are_taken() -> None:
    reply = negotiate(offer(), OPTIONS)
    for flag in (
        InitFlag.ASYNC_READ,
        InitFlag.PARALLEL_DIROPS,
        InitFlag.CACHE_SYMLINKS,
        InitFlag.MAX_PAGES,
        InitFlag.DO_READDIRPLUS,
        InitFlag.READDIRPLUS_AUTO,
        InitFlag.EXPLICIT_INVAL_DATA,
        InitFlag.INIT_EXT,
        InitFlag.HAS_RESEND,
        InitFlag.PASSTHROUGH,
        InitFlag.ALLOW_IDMAP,
    ):
        assert flag in reply.flags
    for flag in (InitFlag.WRITEBACK_CACHE, InitFlag.AUTO_INVAL_DATA, InitFlag.OVER_IO_URING):
        assert flag not in reply.flags


def test_what_the_kernel_does_not_offer_is_not_taken() -> None:
    reply = negotiate(offer(flags=InitFlag.ASYNC_READ), OPTIONS)
    assert reply.flags == InitFlag.ASYNC_READ
    assert reply.max_pages == 0
    assert reply.max_stack_depth == 0


def test_passthrough_needs_a_stack_depth() -> None:
    assert negotiate(offer(), OPTIONS).max_stack_depth == 1
    without = negotiate(offer(), SessionOptions(passthrough=False, allow_idmap=False))
    assert without.max_stack_depth == 0
    assert not without.flags & (InitFlag.PASSTHROUGH | InitFlag.ALLOW_IDMAP)


def test_the_smaller_minor_version_is_spoken() -> None:
    assert negotiate(offer(minor=31), OPTIONS).minor == 31
    assert negotiate(offer(minor=99), OPTIONS).minor == 45


def test_requests_are_as_large_as_asked() -> None:
    assert negotiate(offer(), SessionOptions(max_read=1 << 20)).max_pages * 4096 == 1 << 20


@pytest.mark.parametrize(("major", "minor"), [(7, 11), (6, 99)])
def test_a_kernel_that_is_too_old_is_refused(major: int, minor: int) -> None:
    with pytest.raises(OSError, match=r"needed is 7\.12") as refused:
        negotiate(offer(minor, major=major), OPTIONS)
    assert refused.value.errno == errno.EPROTO


def test_before_7_36_the_offer_has_no_second_word_of_flags() -> None:
    body = INIT_IN.pack(7, 31, 131072, int(InitFlag.ASYNC_READ))
    assert InitRequest.decode(body) == InitRequest(7, 31, 131072, InitFlag.ASYNC_READ)


def test_the_second_word_of_flags_is_read_only_when_announced() -> None:
    high = InitFlag.PASSTHROUGH | InitFlag.ALLOW_IDMAP
    extension = INIT_IN_EXT.pack(int(high) >> 32)
    announced = INIT_IN.pack(7, 45, 0, int(InitFlag.INIT_EXT)) + extension
    assert InitRequest.decode(announced).flags == high | InitFlag.INIT_EXT
    silent = INIT_IN.pack(7, 45, 0, 0) + extension
    assert InitRequest.decode(silent).flags == InitFlag(0)


def test_an_offer_cut_short_is_an_error() -> None:
    with pytest.raises(struct.error):
        InitRequest.decode(INIT_IN.pack(7, 45, 0, int(InitFlag.INIT_EXT)))


def test_the_answer_is_as_long_as_the_minor_version_expects() -> None:
    assert INIT_OUT.size == 64
    assert len(negotiate(offer(minor=45), OPTIONS).encode()) == 64
    assert len(negotiate(offer(minor=22), OPTIONS).encode()) == 24


def test_flags_beyond_the_first_word_travel_in_the_second() -> None:
    fields = INIT_OUT.unpack(negotiate(offer(), OPTIONS).encode())
    assert fields[3] >> 30 & 1
    assert fields[10] == int(negotiate(offer(), OPTIONS).flags) >> 32
    assert fields[11] == 1


@given(
    minor=st.integers(min_value=23, max_value=60),
    flags=st.integers(min_value=0, max_value=(1 << 63) - 1),
    max_read=st.integers(min_value=4096, max_value=1 << 20),
)
def test_a_successor_reads_the_same_answer(minor: int, flags: int, max_read: int) -> None:
    options = SessionOptions(max_read=max_read)
    reply = negotiate(offer(minor, flags), options)
    assert InitReply.decode(reply.encode()) == reply
    assert negotiate(offer(minor, flags), options) == reply


@given(st.binary(max_size=80))
def test_foreign_bytes_are_no_answer_of_ours(data: bytes) -> None:
    try:
        reply = InitReply.decode(data)
    except ValueError:
        return
    assert isinstance(reply, InitReply)
