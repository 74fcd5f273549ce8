"""Models of every producer in a real registry: listed, read and copied file by file."""

from __future__ import annotations

import json

import pytest
from copies_models import Cli, push_producer
from producers import PRODUCERS, Producer
from registry_process import RegistryProcess

EVERY = pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.name)


@EVERY
def test_inspect_and_tree_list_what_the_producers_own_tool_extracts(
    cli: Cli, docker_registry: RegistryProcess, producer: Producer
) -> None:
    reference = push_producer(docker_registry, producer)
    for command in ("inspect", "tree"):
        told = json.loads(cli(command, reference, "--json", *_platform(producer)).stdout)
        sizes = {file["path"]: file["size"] for file in told["files"]}
        assert sizes == {path: len(shown.data) for path, shown in producer.shows.items()}
        modes = {file["path"]: int(file["mode"], 8) for file in told["files"]}
        assert modes == {path: shown.mode for path, shown in producer.shows.items()}
        text = cli(command, reference, *_platform(producer)).stdout
        assert all(path.rpartition("/")[2] in text for path in producer.shows)


@EVERY
def test_cat_gives_every_byte_of_every_file(
    cli: Cli, docker_registry: RegistryProcess, producer: Producer
) -> None:
    reference = push_producer(docker_registry, producer)
    for path, shown in producer.shows.items():
        found = cli("cat", reference, path, *_platform(producer)).stdout_bytes
        assert found == shown.data, path
    path, shown = max(producer.shows.items(), key=lambda each: len(each[1].data))
    part = cli(
        "cat", reference, path, "--offset", "1", "--length", "4KiB", *_platform(producer)
    ).stdout_bytes
    assert part == shown.data[1:4097]


def _platform(producer: Producer) -> list[str]:
    return ["--platform", "linux/amd64"] if producer.name == "aikit-platforms" else []
