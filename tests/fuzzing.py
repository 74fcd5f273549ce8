"""Bytes and documents as outsiders could give them, for property tests; script/fuzz runs those
for as long as you like."""

from __future__ import annotations

import copy
import json
import os
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FACTOR = int(os.environ.get("FUZZ_FACTOR", "1"))
"""How many times as many examples as usual."""

_NUMBERS = st.sampled_from(
    [0, 1, -1, 255, 1 << 31, 1 << 32, (1 << 63) - 1, 1 << 63, 1 << 64, 10**400]
)
_TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "/",
        "a/b",
        "../a",
        "a\0b",
        "\\",
        "a" * 300,
        "\ud800",
        "sha256:",
        "\u202e",
        "NaN",
    ]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _NUMBERS | _TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXTS, inner, max_size=3),
    max_leaves=6,
)
DEEP = [b"[" * 20_000, b'{"a":' * 4_000, b"[" * 500 + b"]" * 500]
"""What makes a recursive parser run out of stack."""


def examples(count: int) -> settings:
    """For ``@given`` above a test that wants another number of examples than the usual."""
    return settings(
        max_examples=count * FACTOR,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


@dataclass(frozen=True)
class Damage:
    """What is done to some bytes, one edit after the other."""

    edits: tuple[tuple[str, int, int, bytes], ...]
    """How, where (modulo the length), over how many bytes, and with which."""

    def to(self, sound: bytes) -> bytes:
        data = bytearray(sound)
        for how, place, length, junk in self.edits:
            at = place % len(data) if data else 0
            end = min(len(data), at + length)
            if how == "flip":
                data[at:end] = bytes(byte ^ (1 << place % 8) for byte in data[at:end])
            elif how == "set":
                data[at:end] = (junk[:1] or b"\0") * (end - at)
            elif how == "cut":
                del data[at:]
            elif how == "drop":
                del data[at:end]
            elif how == "repeat":
                data[at:at] = data[at:end]
            else:
                data[at:at] = junk
        return bytes(data)


DAMAGES = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "set", "cut", "drop", "repeat", "insert"]),
        st.integers(0, 1 << 20),
        st.sampled_from([1, 1, 1, 2, 4, 8, 64, 512]),
        st.sampled_from([b"\0", b"\xff", b"\x80", b"9", b" ", b"\n"]) | st.binary(max_size=12),
    ),
    min_size=1,
    max_size=5,
).map(lambda edits: Damage(tuple(edits)))


def damaged(*sound: bytes) -> st.SearchStrategy[bytes]:
    """One of ``sound`` with some bytes flipped, set, cut off, left out, repeated or put between."""
    return st.builds(lambda damage, data: damage.to(data), DAMAGES, st.sampled_from(sound))


@st.composite
def changed(draw: st.DrawFn, *sound: Any) -> Any:
    """One of the JSON documents with some values, anywhere in it, replaced, removed or added."""
    document = copy.deepcopy(draw(st.sampled_from(sound)))
    for _ in range(draw(st.integers(1, 4))):
        place, key = None, None
        node = document
        while isinstance(node, dict | list) and node:
            keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
            place, key = node, draw(st.sampled_from(keys))
            node = place[key]
            if draw(st.integers(0, 3)) == 0:
                break
        if place is None:
            return draw(JSON)
        how = draw(st.sampled_from(["replace", "replace", "remove", "again", "add"]))
        if how == "remove":
            del place[key]
        elif how == "again" and isinstance(place, list):
            place.append(copy.deepcopy(node))
        elif how == "add" and isinstance(place, dict):
            place[draw(_TEXTS)] = draw(JSON)
        else:
            place[key] = draw(JSON)
    return document


def documents(*sound: Any) -> st.SearchStrategy[bytes]:
    """The documents as JSON, wrong in what they say or in how it is written."""
    written = [json.dumps(document).encode() for document in sound]
    return (
        changed(*sound).map(lambda document: json.dumps(document).encode())
        | damaged(*written)
        | st.sampled_from(DEEP)
    )


def is_for_people(error: Exception) -> None:
    """One line that is not too long, whatever was in what it is about."""
    assert str(error).strip()
    assert "\n" not in str(error)
    assert len(str(error)) < 5000
