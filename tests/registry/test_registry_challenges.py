from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.registry.challenges import Challenge, parse_challenges

BEARER = 'Bearer realm="https://a.example/token",service="r",scope="repository:a/b:pull,push"'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            BEARER,
            [
                Challenge(
                    "bearer",
                    {
                        "realm": "https://a.example/token",
                        "service": "r",
                        "scope": "repository:a/b:pull,push",
                    },
                )
            ],
        ),
        ('Basic realm="a b"', [Challenge("basic", {"realm": "a b"})]),
        ("BASIC Realm=x", [Challenge("basic", {"realm": "x"})]),
        (
            'Negotiate, Basic realm=x, charset="UTF-8"',
            [Challenge("negotiate", {}), Challenge("basic", {"realm": "x", "charset": "UTF-8"})],
        ),
        ('Bearer realm="a\\"b"', [Challenge("bearer", {"realm": 'a"b'})]),
        ("Bearer", [Challenge("bearer", {})]),
        ("", []),
    ],
)
def test_a_header_is_read(value: str, expected: list[Challenge]) -> None:
    assert parse_challenges([value]) == expected


def test_several_headers_count_as_one_list() -> None:
    assert [c.scheme for c in parse_challenges(["Basic realm=x", BEARER])] == ["basic", "bearer"]


@given(st.text(alphabet='Bearer =,"\\ab:/\t', max_size=60))
def test_no_header_is_too_broken_to_be_looked_at(value: str) -> None:
    parse_challenges([value])
