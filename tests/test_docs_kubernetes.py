"""What docs/kubernetes.md tells people to write is what the programs take."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from snapshotter.cli.main import cli
from snapshotter.config import parse_config
from snapshotter.doctor.samples import kubelet_files

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "kubernetes.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def of_file(name: str) -> list[dict[str, Any]]:
    """The TOML blocks that say they belong there."""
    return [tomllib.loads(text) for text in blocks("toml") if text.startswith(f"# {name}\n")]


def test_every_toml_block_says_where_it_belongs() -> None:
    daemon = of_file("/etc/modelpack-snapshotter/config.toml")
    containerd = of_file("/etc/containerd/config.toml")
    assert len(daemon) + len(containerd) == len(blocks("toml"))


@pytest.mark.parametrize("table", of_file("/etc/modelpack-snapshotter/config.toml"))
def test_the_daemon_takes_its_part(table: dict[str, Any]) -> None:
    parse_config(table, "docs/kubernetes.md")


def test_containerds_part_is_the_line_of_the_sample() -> None:
    (part,) = of_file("/etc/containerd/config.toml")
    text = (REPOSITORY / "config/containerd/config-2.1.toml").read_text()
    whole = tomllib.loads(text.replace('# snapshotter = "modelpack"', 'snapshotter = "modelpack"'))
    for plugin, settings in part["plugins"].items():
        assert settings.items() <= whole["plugins"][plugin].items()


def test_kubelets_part_is_what_is_printed_for_it() -> None:
    (proxy,) = (t for t in of_file("/etc/modelpack-snapshotter/config.toml") if "cri" in t)
    kubelet, runtime_class = kubelet_files(parse_config(proxy, "docs"))
    assert kubelet.text in blocks("yaml")
    assert "handler: modelpack" in runtime_class.text
    assert "runtimeClassName: modelpack" in PAGE


@pytest.mark.parametrize("line", [line for text in blocks("sh") for line in text.splitlines()])
def test_every_command_is_one_of_ours(line: str) -> None:
    program, command, *_ = line.split()
    assert program == "modelpack"
    result = CliRunner().invoke(cli, [command, "--help"])
    assert result.exit_code == 0
    for option in re.findall(r"--[a-z-]+", line):
        assert option in result.output
