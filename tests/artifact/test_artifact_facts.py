"""What is read for people and for order: metadata, categories, model configs."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.categories import is_weights
from snapshotter.artifact.config import ModelFacts, model_facts
from snapshotter.artifact.metadata import FileMetadata, file_metadata, parse_time

MIB = 1 << 20


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("2025-06-01T12:34:56.789012345+08:00", 1748752496_789012345),
        ("2025-06-01T00:00:00.5-00:30", 1748737800_500000000),
        ("0001-01-01T00:00:00Z", 0),
        ("9999-12-31T23:59:59Z", 2**63 - 1),
        ("1969-12-31T23:59:59Z", 0),
        ("2025-13-01T00:00:00Z", 0),
        ("2025-06-01", 0),
        ("", 0),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert parse_time(text) == expected


def test_metadata_as_modctl_writes_it_is_read() -> None:
    text = '{"name":"m","mode":420,"uid":0,"size":7,"mtime":"1970-01-01T00:00:01Z","typeflag":48}'
    expected = FileMetadata(mode=420, mtime_ns=10**9, size=7, typeflag=0)
    assert file_metadata({"org.cncf.model.file.metadata+json": text}) == (expected, None)
    assert file_metadata({"org.cnai.model.file.metadata+json": text}) == (expected, None)


def test_metadata_with_further_keys_is_read() -> None:
    text = '{"mode":420,"files":["a"]}'
    found, _ = file_metadata({"org.cncf.model.file.metadata+json": text})
    assert (found.mode, found.bundle) == (420, True)


@given(st.text())
def test_any_metadata_is_read_or_warned_of(text: str) -> None:
    file_metadata({"org.cncf.model.file.metadata+json": text})


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("model-00001-of-00004.safetensors", 100),
        ("sub.dir/Model.GGUF", 10),
        ("pytorch_model.bin", 500 * MIB),
        ("weights", 100 * MIB),
        ("consolidated.00.pth", 1),
    ],
)
def test_weights_are_known_by_name_and_size(path: str, size: int) -> None:
    assert is_weights(path, size)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("training_args.bin", 5000),
        ("tokenizer.model", 4 * MIB),
        ("tokenizer.json", 33 * MIB),
        ("data/train.parquet", 900 * MIB),
        ("model.safetensors/README", 10),
        ("model.safetensors.index.json", 10),
    ],
)
def test_other_files_are_no_weights(path: str, size: int) -> None:
    assert not is_weights(path, size)


def test_facts_of_a_modelpack_config_are_read() -> None:
    config = {
        "descriptor": {"name": "llama", "authors": ["a", "b"], "createdAt": "2025-01-01T00:00:00Z"},
        "config": {"format": "safetensors", "paramSize": "8b", "precision": "bf16"},
        "modelfs": {"type": "layers", "diffIds": []},
    }
    facts = model_facts(json.dumps(config).encode())
    assert (facts.name, facts.authors, facts.created) == (
        "llama",
        ("a", "b"),
        "2025-01-01T00:00:00Z",
    )
    assert (facts.format, facts.param_size, facts.precision) == ("safetensors", "8b", "bf16")


def test_facts_of_a_docker_config_are_read() -> None:
    config = {"config": {"format": "gguf", "parameters": "361.82 M", "quantization": "Q4_K_M"}}
    facts = model_facts(json.dumps(config).encode())
    assert (facts.param_size, facts.quantization) == ("361.82 M", "Q4_K_M")


@pytest.mark.parametrize("raw", [b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_a_config_that_says_nothing_is_normal(raw: bytes) -> None:
    assert model_facts(raw) == ModelFacts()


def test_facts_cannot_move_the_terminal_of_who_reads_them() -> None:
    facts = model_facts(
        json.dumps({"descriptor": {"name": "a\x1b[2Jb\n\u202ecxxx" + "x" * 9999}}).encode()
    )
    assert facts.name.startswith("a [2Jb cxxx")
    assert len(facts.name) <= 1000
    assert facts.name.isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(["name", "authors", "licenses", "createdAt", "format", "paramSize"])


@given(
    st.dictionaries(
        st.sampled_from(["descriptor", "config"]),
        VALUES | st.dictionaries(KEYS, VALUES, max_size=3),
    )
)
def test_any_config_is_read(config: dict[str, object]) -> None:
    facts = model_facts(json.dumps(config).encode())
    assert all(isinstance(author, str) for author in facts.authors)
