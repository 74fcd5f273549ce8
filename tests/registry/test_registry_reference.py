from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.digest import Digest
from snapshotter.errors import ModelpackError
from snapshotter.registry.errors import InvalidReference
from snapshotter.registry.reference import Reference

HEX = "a" * 64
DIGEST = Digest(f"sha256:{HEX}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model", Reference("docker.io", "library/model", "latest", None)),
        ("ai/smollm2:135M", Reference("docker.io", "ai/smollm2", "135M", None)),
        ("docker.io/model", Reference("docker.io", "library/model", "latest", None)),
        ("index.docker.io/a/b", Reference("docker.io", "a/b", "latest", None)),
        ("localhost/m:v1", Reference("localhost", "m", "v1", None)),
        ("localhost:5000/a/b", Reference("localhost:5000", "a/b", "latest", None)),
        ("r.example/x/y/z:1.0-b_2", Reference("r.example", "x/y/z", "1.0-b_2", None)),
        ("[::1]:5000/m", Reference("[::1]:5000", "m", "latest", None)),
        (f"r.example/m@{DIGEST}", Reference("r.example", "m", None, DIGEST)),
        (f"r.example/m:v1@{DIGEST}", Reference("r.example", "m", "v1", DIGEST)),
        ("Registry/m", Reference("Registry", "m", "latest", None)),
        ("a--b/c__d", Reference("docker.io", "a--b/c__d", "latest", None)),
    ],
)
def test_a_reference_is_read_as_docker_reads_it(text: str, expected: Reference) -> None:
    assert Reference.parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":v1",
        "a/",
        "/a",
        "a//b",
        "r.example/",
        "r.example/Upper",
        "https://r.example/m",
        HEX,
        "r.example/m:",
        "r.example/m:.hidden",
        "r.example/m:" + "t" * 129,
        "r.example/m@sha256:abc",
        "r.example/m@",
        "r.example/../m",
        "r.example/a___b",
        "-r.example/m",
        "r.example:port/m",
        "r.example/m\n",
        "r.example/" + "m" * 250,
        "user:password@r.example/m",
    ],
)
def test_what_docker_refuses_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        Reference.parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=80))
def test_any_text_is_a_reference_or_an_error_of_ours(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except ModelpackError:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference


def test_people_see_the_short_name() -> None:
    assert Reference.parse("model:v1").familiar == "model:v1"
    assert Reference.parse("ai/model:v1").familiar == "ai/model:v1"
    assert Reference.parse("r.example/model").familiar == "r.example/model:latest"


def test_pinning_drops_the_tag() -> None:
    pinned = Reference.parse("r.example/m:v1").with_digest(DIGEST)
    assert str(pinned) == f"r.example/m@{DIGEST}"
    assert pinned.target == DIGEST
