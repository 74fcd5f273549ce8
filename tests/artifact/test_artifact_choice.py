"""A choice of files as it is kept, and in markers of stub images."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.choice import (
    ASKED_LIMIT,
    EVERYTHING,
    PATTERN_LIMIT,
    both,
    decode_choice,
    describe_choice,
    encode_choice,
)
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import MARKER_LIMIT, ModelRef, decode_marker, encode_marker
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.selection import Selection

PATTERNS = st.lists(st.sampled_from(["*.bin", "!a", "d/", "ü*", "[ab]?"]), max_size=4).map(tuple)
CATEGORIES = st.frozensets(st.sampled_from(Category))
CHOICES = st.builds(Selection, PATTERNS, PATTERNS, CATEGORIES, CATEGORIES)
REF = ModelRef("registry.example.com:5000", "models/qwen3", digest_of(b"m"))
CHOSEN = ModelRef(
    REF.registry,
    REF.repository,
    REF.digest,
    Selection(exclude=("*.bin",), exclude_categories=frozenset({Category.DOC, Category.CODE})),
)


@given(CHOICES)
def test_a_choice_is_read_as_it_was_written(choice: Selection) -> None:
    assert decode_choice(encode_choice(choice)) == choice
    assert bool(encode_choice(choice)) == bool(choice)


def test_the_order_of_categories_changes_no_byte() -> None:
    assert encode_choice(CHOSEN.selection) == (
        '{"exclude":["*.bin"],"exclude_categories":["code","doc"]}'
    )


@pytest.mark.parametrize(
    "text",
    ["[]", "{", '{"exclude":[1]}', '{"exclude":["["]}', '{"later":1}', '{"categories":["x"]}'],
)
def test_what_is_no_choice_of_this_version_is_an_error(text: str) -> None:
    with pytest.raises(ArtifactError, match="choice of files"):
        decode_choice(text)


def test_more_patterns_than_are_compared_with_every_path_are_refused() -> None:
    many = Selection(exclude=tuple(f"{n}" for n in range(PATTERN_LIMIT + 1)))
    with pytest.raises(ArtifactError, match=f"by 129 patterns: at most {PATTERN_LIMIT}"):
        encode_choice(many)
    with pytest.raises(ArtifactError, match="by 129 patterns"):
        decode_choice(json.dumps({"exclude": many.exclude}))


def test_of_two_choices_what_neither_leaves_out_is_left_and_the_second_may_take_back() -> None:
    node = Selection(exclude=("*.bin",), exclude_categories=frozenset({Category.DOC}))
    asked = Selection(exclude=("!keep.bin", "*.pt"))
    chosen = both(node, asked)
    assert chosen.selects("keep.bin", Category.WEIGHT)
    for path, category in (("a.bin", Category.WEIGHT), ("a.pt", Category.WEIGHT)):
        assert not chosen.selects(path, category)
    assert not chosen.selects("README.md", Category.DOC)
    assert both(EVERYTHING, EVERYTHING) == EVERYTHING


def test_people_are_told_what_was_chosen_by() -> None:
    assert describe_choice(CHOSEN.selection) == "exclude '*.bin'; exclude category code, doc"


# Markers


def test_a_marker_without_a_choice_is_what_it_was_in_the_first_release() -> None:
    digest = hashlib.sha256(encode_marker(REF)).hexdigest()
    assert digest == "26af39dc7667799f46ae9188bca17014d9d7fde3ef4964f1796254ad012bafea"


def test_a_marker_keeps_what_was_chosen() -> None:
    assert decode_marker(encode_marker(CHOSEN)) == CHOSEN
    assert encode_marker(CHOSEN) != encode_marker(REF)


def test_a_marker_with_a_choice_is_of_a_format_that_earlier_versions_refuse() -> None:
    assert json.loads(encode_marker(REF))["format"] == 1
    assert json.loads(encode_marker(CHOSEN))["format"] == 2


@pytest.mark.parametrize(
    "changes",
    [{"later": True}, {"choose": {}}, {"format": 2, "choose": {"later": 1}}, {"format": 2, "x": 1}],
)
def test_a_marker_that_says_what_we_do_not_know_is_refused(changes: dict[str, object]) -> None:
    # What it says may be that something must not be shown.
    marker = json.dumps(json.loads(encode_marker(REF)) | changes).encode()
    with pytest.raises(ArtifactError, match="upgrade modelpack-snapshotter, or pull"):
        decode_marker(marker)


def test_a_marker_of_format_2_without_its_choice_is_none() -> None:
    marker = json.dumps(json.loads(encode_marker(REF)) | {"format": 2}).encode()
    with pytest.raises(ArtifactError, match="is no marker"):
        decode_marker(marker)


def test_an_image_brings_fewer_patterns_so_that_the_node_can_add_some() -> None:
    many = Selection(exclude=tuple(f"{n}" for n in range(ASKED_LIMIT + 1)))
    with pytest.raises(ArtifactError, match="by 65 patterns: at most 64"):
        encode_marker(ModelRef(REF.registry, REF.repository, REF.digest, many))
    fields = json.loads(encode_marker(CHOSEN)) | {"choose": {"exclude": list(many.exclude)}}
    with pytest.raises(ArtifactError, match="by 65 patterns: at most 64"):
        decode_marker(json.dumps(fields).encode())


def test_a_choice_that_does_not_fit_into_a_marker_is_an_error() -> None:
    long = Selection(exclude=tuple("x" * 200 + str(n) for n in range(30)))
    with pytest.raises(
        ArtifactError, match=rf"too many for a stub image, which has {MARKER_LIMIT}"
    ):
        encode_marker(ModelRef(REF.registry, REF.repository, REF.digest, long))
