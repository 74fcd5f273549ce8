from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from snapshotter.config import Config, ConfigError, load_config, parse_config

REPOSITORY = Path(__file__).parent.parent


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    assert load_config(path) == Config()


def test_sockets_lie_in_the_state_directory_unless_they_are_named(tmp_path: Path) -> None:
    config = parse_config({"state": "/run/x", "api": {"address": "/tmp/a.sock"}}, "test")
    assert config.grpc_address == Path("/run/x/snapshotter.sock")
    assert config.api_address == Path("/tmp/a.sock")


def test_sizes_and_durations_may_have_units() -> None:
    config = parse_config(
        {"mounts": {"readahead": "8MiB"}, "registry": {"connect_timeout": "2s"}}, "test"
    )
    assert config.mounts.readahead == 8 << 20
    assert config.registry.connect_timeout == 2


def test_an_unknown_key_is_named_with_its_section_and_the_nearest_known_one() -> None:
    with pytest.raises(
        ConfigError, match=r"test: unknown key 'readahed' in \[mounts\].*'readahead'"
    ):
        parse_config({"mounts": {"readahed": 1}}, "test")


def test_an_unknown_section_is_named() -> None:
    with pytest.raises(
        ConfigError, match="unknown key 'mirrors' at top level; did you mean 'mirror'"
    ):
        parse_config({"mirrors": {}}, "test")


def test_an_unknown_key_in_a_table_of_the_administrators_own_is_named() -> None:
    tables = {"registry": {"limits": {"r.example:5000": {"conections": 1}}}}
    with pytest.raises(ConfigError, match=r"unknown key 'conections'.*did you mean 'connections'"):
        parse_config(tables, "test")


def test_limits_of_a_host_are_read() -> None:
    limits = {"r.example:5000": {"connections": 4, "bytes_per_second": "10MiB"}}
    config = parse_config({"registry": {"limits": limits}}, "test")
    assert config.registry.limits["r.example:5000"].bytes_per_second == 10 << 20


def test_what_is_left_out_of_models_is_read_and_what_makes_no_sense_is_named() -> None:
    tables = {
        "exclude": ["*.bin"],
        "exclude_categories": ["doc"],
        "models": {"r.example/llama": {"exclude": ["!a.bin"]}},
    }
    mounts = parse_config({"mounts": tables}, "test").mounts
    assert mounts.models["r.example/llama"].exclude == ("!a.bin",)
    for wrong, named in (
        ({"exclude": ["["]}, r"exclude: pattern '\[' cannot be used"),
        ({"exclude": ["*"] * 17}, "exclude has 17 patterns: at most 16"),
        ({"exclude_categories": ["docs"]}, "Invalid enum value 'docs'"),
        ({"models": {"http://r.example": {}}}, "is no place such as registry.example.com/models"),
        ({"models": {"r.example": {"exclude": ["a//b"]}}}, "exclude: pattern 'a//b' cannot"),
        ({"models": {"r.example": {"excluded": []}}}, "did you mean 'exclude'"),
    ):
        with pytest.raises(ConfigError, match=named):
            parse_config({"mounts": wrong}, "test")


def test_a_value_of_the_wrong_type_is_named_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"Expected `int`, got `str`.*mounts\.uid"):
        parse_config({"mounts": {"uid": "root"}}, "test")


def test_a_size_that_is_none_is_shown() -> None:
    with pytest.raises(ConfigError, match="'much' is no size"):
        parse_config({"mounts": {"readahead": "much"}}, "test")


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("root = ")
    with pytest.raises(ConfigError, match=f"{path} is not valid TOML"):
        load_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.toml")


def test_the_reference_in_docs_says_what_the_code_does() -> None:
    subprocess.run(
        [sys.executable, REPOSITORY / "script" / "config-reference", "--check"], check=True
    )


def test_a_pinned_chunk_list_is_a_manifest_and_a_list() -> None:
    manifest, chunk_list = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"
    config = parse_config({"verify": {"pinned_lists": [f"{manifest}={chunk_list}"]}}, "test")
    assert config.verify.pins == {manifest: chunk_list}


@pytest.mark.parametrize("pin", ["", "sha256:a=sha256:b", f"sha256:{'a' * 64}"])
def test_a_pin_that_is_none_is_shown(pin: str) -> None:
    with pytest.raises(ConfigError, match=r"test: pinned_lists: .* is no MANIFEST=LIST"):
        parse_config({"verify": {"pinned_lists": [pin]}}, "test")
