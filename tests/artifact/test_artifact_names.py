from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.names import check_path, parents


@pytest.mark.parametrize(
    "path",
    [
        "a",
        "a/b/c.safetensors",
        ".wh.file",
        ".hidden",
        "a..b",
        "...",
        "größe/模型.bin",
        "a b",
        "x" * 255,
    ],
)
def test_ordinary_paths_are_kept_as_they_are(path: str) -> None:
    assert check_path(path, "layer 1") == path


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty"),
        (".", "component '.'"),
        ("..", "component '..'"),
        ("../a", "component '..'"),
        ("a/../b", "component '..'"),
        ("a/./b", "component '.'"),
        ("./a", "component '.'"),
        ("a//b", "component ''"),
        ("a/", "component ''"),
        ("/etc/passwd", "absolute"),
        ("a\\b", "backslash"),
        ("a\0b", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("a\x85", "control"),
        ("a\ud800", "Unicode"),
        ("é" * 128, "255 bytes"),
        ("/".join(["a" * 200] * 21), "4096"),
        ("/".join("a" * 65), "levels deep"),
    ],
)
def test_hostile_paths_are_refused_naming_the_layer(path: str, why: str) -> None:
    with pytest.raises(ArtifactError, match=why) as caught:
        check_path(path, "layer 3 of 4 (sha256:00)")
    assert str(caught.value).startswith("layer 3 of 4 (sha256:00): ")
    assert "\n" not in str(caught.value)


@given(st.text())
def test_an_accepted_path_stays_below_the_root(path: str) -> None:
    try:
        check_path(path, "layer")
    except ArtifactError:
        return
    assert path.encode()
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


def test_parents_come_nearest_first() -> None:
    assert list(parents("a/b/c")) == ["a/b", "a"]
    assert list(parents("a")) == []
