from __future__ import annotations

import json
from pathlib import Path

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from pack_models import write_gguf, write_model

from snapshotter.artifact.config import ModelFacts
from snapshotter.pack.facts import format_parameters, guess, override
from snapshotter.pack.walk import walk


def test_a_safetensors_model_tells_what_it_is(tmp_path: Path) -> None:
    assert guess(walk(write_model(tmp_path / "m"))) == ModelFacts(
        family="llama",
        architecture="transformer",
        format="safetensors",
        precision="float16",
        param_size="4.1k",
        licenses=("Apache-2.0",),
    )


def test_a_gguf_model_tells_what_it_is(tmp_path: Path) -> None:
    write_gguf(tmp_path / "llama.Q4_K_M.gguf")
    assert guess(walk(tmp_path)) == ModelFacts(
        title="A Llama",
        family="llama",
        architecture="transformer",
        format="gguf",
        quantization="Q4_K_M",
        param_size="8b",
    )


def test_packed_weights_are_not_counted(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    config = {"model_type": "llama", "quantization_config": {"quant_method": "awq"}}
    (directory / "config.json").write_text(json.dumps(config))
    facts = guess(walk(directory))
    assert (facts.quantization, facts.param_size) == ("awq", "")


@pytest.mark.parametrize(
    "config", ["", "[]", "{", '{"model_type": 5}', '{"model_type": "\\ud800", "dtype": null}']
)
def test_a_strange_config_spoils_nothing(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    (tmp_path / "model.safetensors").write_bytes(b"\x00")
    facts = guess(walk(tmp_path))
    assert facts.format == "safetensors"
    facts.family.encode()


def test_what_a_person_says_rules() -> None:
    guessed = ModelFacts(family="llama", precision="float16")
    given_facts = ModelFacts(family="mistral", licenses=("MIT",))
    assert override(guessed, given_facts) == ModelFacts(
        family="mistral", precision="float16", licenses=("MIT",)
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (8_030_261_248, "8b"),
        (596_049_920, "596m"),
        (1_543_714_304, "1.5b"),
        (134_515_008, "135m"),
        (671_026_419_200, "671b"),
        (1_000_000_000_000, "1t"),
        (12, "12"),
    ],
)
def test_parameters_are_written_as_people_say_them(count: int, text: str) -> None:
    assert format_parameters(count) == text


@examples(100)
@given(
    st.binary(max_size=200),
    st.sampled_from([b"", b"GGUF\x03\0\0\0", b"\x20" + bytes(7)]),
    st.sampled_from(["file.gguf", "file.safetensors"]),
)
def test_no_file_is_too_broken_to_be_looked_at(
    tmp_path: Path, data: bytes, start: bytes, name: str
) -> None:
    for left in tmp_path.iterdir():
        left.unlink()
    (tmp_path / name).write_bytes(start + data)
    assert guess(walk(tmp_path)).format == name.removeprefix("file.")
