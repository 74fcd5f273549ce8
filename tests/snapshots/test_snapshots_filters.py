from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.snapshots.errors import InvalidArgument
from snapshotter.snapshots.filters import parse_filters
from snapshotter.snapshots.snapshot import Kind, Snapshot


def snapshot(
    name: str = "n",
    parent: str = "",
    kind: Kind = Kind.ACTIVE,
    labels: Mapping[str, str] | None = None,
) -> Snapshot:
    return Snapshot(1, name, parent, kind, labels or {}, 0, 0)


def matches(filter: str, of: Snapshot) -> bool:
    return parse_filters([filter]).match(of.field)


ONE = snapshot("one", "base", Kind.COMMITTED, {"a": "1", "containerd.io/gc.root": "x", "d.e": "f"})


@pytest.mark.parametrize(
    "filter",
    [
        "",
        "name",
        "name==one",
        "name == one",
        'name=="one"',
        '"name"==one',
        "name!=two",
        "name~=^o",
        "name~=/^o/",
        "name~=|n|",
        'name~="e$"',
        "kind==committed",
        "parent==base",
        "labels.a",
        "labels.a==1",
        'labels."containerd.io/gc.root"',
        'labels."containerd.io/gc.root"==x',
        "labels.d.e==f",
        "labels.missing!=anything",
        "labels.missing~=^$",
        "name==one,kind==committed,labels.a",
        "name==one, kind==committed",
        r'name=="\x6fne"',
        r'name=="\157\u006e\U00000065"',
        "unknown!=x",
    ],
)
def test_it_matches(filter: str) -> None:
    assert matches(filter, ONE)


@pytest.mark.parametrize(
    "filter",
    [
        "name==two",
        "name!=one",
        "name~=^n",
        "kind==active",
        'parent==""',
        "labels",
        "labels.b",
        "labels.missing==x",
        'labels.missing==""',
        "name==one,kind==view",
        "unknown",
    ],
)
def test_it_does_not_match(filter: str) -> None:
    assert not matches(filter, ONE)


@pytest.mark.parametrize(
    "filter",
    [
        "=",
        "name=",
        "name==",
        "name===one",
        "name<one",
        "name==one,",
        ",name==one",
        "name==one two",
        "name==one ,kind",
        "name.",
        "name==/one/",
        "name==|one|",
        'name=="one',
        r'name=="\q"',
        r'name=="\400"',
        r'name=="\UFFFFFFFF"',
        r"name~=/\d/",
        "/name/==one",
        "labels.containerd.io/gc",
        "name~=(",
        "name==.one",
        "na\x00me",
    ],
)
def test_it_is_not_a_filter(filter: str) -> None:
    with pytest.raises(InvalidArgument, match="expected"):
        parse_filters([filter])


def test_a_snapshot_without_parent_has_an_empty_one() -> None:
    assert matches('parent==""', snapshot())
    assert matches("parent", snapshot())


def test_without_filters_everything_matches() -> None:
    assert parse_filters([]).match(ONE.field)


def test_of_several_filters_one_must_match() -> None:
    assert parse_filters(["name==two", "labels.a==1"]).match(ONE.field)
    assert not parse_filters(["name==two", "labels.a==2"]).match(ONE.field)


def quoted(text: str) -> str:
    return '"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"'


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text())
def test_a_quoted_name_is_that_name_and_no_other(name: str, other: str) -> None:
    found = snapshot(name)
    assert matches(f"name=={quoted(name)}", found)
    assert not matches(f"name!={quoted(name)}", found)
    if other != name:
        assert not matches(f"name=={quoted(name)}", snapshot(other))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.text("abc"), min_size=1
    ),
)
def test_any_label_can_be_asked_for_in_quotes(labels: dict[str, str]) -> None:
    selectors = (f'labels.{quoted(key)}=="{value}"' for key, value in labels.items())
    assert matches(",".join(selectors), snapshot(labels=labels))


@given(st.text("abn=!~.,\"/|\\ x0'kindame"))
def test_whatever_is_asked_is_answered_or_refused(filter: str) -> None:
    with suppress(InvalidArgument):
        parse_filters([filter]).match(ONE.field)
