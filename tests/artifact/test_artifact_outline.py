from __future__ import annotations

import pytest

from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layout import File, Layout, Link
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.outline import outline
from snapshotter.artifact.platforms import describe, parse_platform

_DIGEST = digest_of(b"")


def file(path: str) -> File:
    return File(path, 0, 0o444, 0, _DIGEST, 0, Category.DOC, 0)


def test_a_tree_is_drawn_as_people_know_it() -> None:
    layout = Layout(
        (file("README.md"), file("a/b/c.json"), file("a/d.json")),
        ("a", "a/b", "empty"),
        (),
        links=(Link("a/link", "d.json", 0, _DIGEST, 0),),
    )
    assert [line.stem + line.name for line in outline(layout)] == [
        "├── README.md",
        "├── a",
        "│   ├── b",
        "│   │   └── c.json",
        "│   ├── d.json",
        "│   └── link",
        "└── empty",
    ]


def test_a_tree_may_be_as_deep_as_names_allow() -> None:
    path = "/".join("d" * 64)
    directories = tuple(sorted(path[:end] for end in range(1, len(path), 2)))
    lines = list(outline(Layout((file(f"{path}"),), directories, ())))
    assert len(lines) == 64


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/arm/v7", "linux/arm/v7"),
    ],
)
def test_a_platform_is_read_in_its_spellings(text: str, platform: str) -> None:
    assert describe(parse_platform(text)) == platform


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="no platform"):
        parse_platform(text)
