"""What a successor makes of what the keeper holds."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuse.kernel import InitFlag
from fuse.mountinfo import FuseMount
from fuse.negotiate import InitRequest, SessionOptions, negotiate
from fuse.tree import RENEWED
from snapshotter.artifact.choice import EVERYTHING, encode_choice
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.selection import Selection
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.identity import Identity
from snapshotter.mounts.inheritance import (
    Inherited,
    Record,
    decode_record,
    shown_at,
    unclaimed,
)
from snapshotter.mounts.ledger import Ledger, recorded_device
from snapshotter.mounts.options import MountOptions

ROOT = Path("/run/modelpack-snapshotter/mounts")
DIGEST = "sha256:" + "a" * 64


def mount(minor: int, point: Path) -> FuseMount:
    return FuseMount(1, f"0:{minor}", "/", point, "a model", "fuse.modelpack")


def record(**changed: object) -> Record:
    fields: dict[str, object] = {
        "version": 1,
        "registry": "registry.example.com",
        "repository": "models/tiny",
        "digest": DIGEST,
        "directory": str(ROOT / "a"),
        "since": 1.0,
        "uid": 5,
        "gid": 6,
        "max_read": 131072,
        "fingerprint": "f",
    }
    return Record(**{**fields, **changed})  # type: ignore[arg-type]


def test_a_mount_is_found_by_its_device() -> None:
    mounts = [mount(3, ROOT / "a"), mount(4, ROOT / "a"), mount(5, ROOT / "b")]
    assert shown_at(ROOT / "a", os.makedev(0, 4), mounts, set()) == os.makedev(0, 4)
    assert shown_at(ROOT / "a", os.makedev(0, 5), mounts, set()) == 0  # detached, held by somebody


def test_one_killed_before_it_knew_the_device_is_the_one_there_that_is_no_others() -> None:
    mounts = [mount(3, ROOT / "a"), mount(4, ROOT / "a")]
    assert shown_at(ROOT / "a", 0, mounts, {os.makedev(0, 3)}) == os.makedev(0, 4)
    assert shown_at(ROOT / "b", 0, mounts, set()) == 0


def test_what_nobody_holds_is_detached_the_topmost_first() -> None:
    mounts = [
        mount(3, ROOT / "a"),
        mount(4, ROOT / "a"),
        mount(5, Path("/mnt")),
        mount(6, ROOT / "b"),
    ]
    left = unclaimed(ROOT, mounts, {os.makedev(0, 6): "id"})
    assert [each.device for each in left] == ["0:4", "0:3"]


def test_the_kernel_is_told_what_it_was_told_before() -> None:
    inherited = Inherited("id", record(), -1, -1, 0, True)
    options = inherited.options(MountOptions(uid=1, gid=2, threads=7))
    assert (options.uid, options.gid, options.max_read, options.threads) == (5, 6, 131072, 7)


def test_a_tree_that_is_another_now_is_not_served_on() -> None:
    inherited = Inherited("id", record(), -1, -1, 0, True)
    inherited.check("f")
    with pytest.raises(MountError, match=f"{DIGEST}.*cannot be served on"):
        inherited.check("another")


@pytest.mark.parametrize(
    "raw",
    ["", "{}", "null", '{"version": 1}', "\ud800", str(record(version=2)), str(record(digest="x"))],
)
def test_a_record_that_is_none_of_ours_is_an_error(raw: str) -> None:
    with pytest.raises(MountError):
        decode_record(raw)


@given(st.text())
def test_no_record_raises_anything_else(raw: str) -> None:
    with pytest.raises(MountError):
        decode_record(raw)


def test_a_ledger_holds_what_was_written_for_who_opens_it_next() -> None:
    offer = InitRequest(7, 45, 1 << 20, InitFlag.HAS_RESEND | InitFlag.INIT_EXT)
    reply = negotiate(offer, SessionOptions())
    first = Ledger.make(1000)
    assert (first.begin_life(), first.negotiated, recorded_device(first.fd)) == (1, None, 0)
    first.agree(reply)
    first.device = 77
    first[1000] = 5
    first[1000 | RENEWED] = -2
    second = Ledger(first.fd, 1000)
    assert (second.begin_life(), second.negotiated, second.device) == (2, reply, 77)
    assert recorded_device(first.fd) == 77
    assert (second[1000], second[1000 | RENEWED], second[1]) == (5, -2, 0)
    for nodeid in (0, 1001, 1001 | RENEWED):
        with pytest.raises(ValueError, match="is none of 1000"):
            second[nodeid]
    second.close()


def test_a_ledger_of_something_else_is_an_error() -> None:
    ledger = Ledger.make(10)
    with pytest.raises(MountError, match="another size"):
        Ledger(ledger.fd, 100_000)
    os.pwrite(ledger.fd, b"MPLEDGE2", 0)
    with pytest.raises(MountError, match="another version"):
        Ledger(ledger.fd, 10)
    os.pwrite(ledger.fd, b"MPLEDGE1", 0)
    os.pwrite(ledger.fd, struct.pack("<I", 9), 24)
    with pytest.raises(MountError, match="cannot be read"):
        _ = Ledger(ledger.fd, 10).negotiated
    ledger.close()


def test_a_record_of_an_earlier_version_shows_everything_and_a_later_choice_is_refused() -> None:
    raw = msgspec.json.encode(record(asked="", chosen="")).decode()
    assert decode_record(raw).identity == Identity(Digest(DIGEST), EVERYTHING, EVERYTHING)
    old = {key: value for key, value in json.loads(raw).items() if key not in ("asked", "chosen")}
    assert decode_record(json.dumps(old)) == decode_record(raw)
    later = msgspec.json.encode(record(chosen='{"later":1}')).decode()
    with pytest.raises(MountError, match="choice of files that this version cannot read"):
        decode_record(later)


def test_a_mount_goes_on_with_the_choice_it_was_made_with() -> None:
    chosen = Selection(exclude=("*.bin",), exclude_categories=frozenset({Category.DOC}))
    raw = msgspec.json.encode(record(chosen=encode_choice(chosen))).decode()
    assert decode_record(raw).identity == Identity(Digest(DIGEST), EVERYTHING, chosen)


def test_each_choice_has_a_directory_of_its_own_and_everything_the_digests() -> None:
    part, other = Selection(exclude=("a",)), Selection(exclude=("b",))
    identities = [
        Identity(Digest(DIGEST), asked, chosen)
        for asked in (EVERYTHING, part)
        for chosen in (EVERYTHING, part, other)
    ]
    names = [identity.name for identity in identities]
    assert names[0] == DIGEST.removeprefix("sha256:")
    assert len(set(names)) == len(names)
    assert all(len(name) <= 255 and "/" not in name for name in names)
