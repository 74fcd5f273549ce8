"""Models of every producer in a real registry: listed, read and copied file by file."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from unittest.mock import ANY

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


@EVERY
def test_fetch_puts_there_what_the_producers_own_tool_extracts(
    cli: Cli, docker_registry: RegistryProcess, producer: Producer, tmp_path: Path
) -> None:
    reference = push_producer(docker_registry, producer)
    target = tmp_path / "to" / "model"
    told = json.loads(
        cli("fetch", reference, "-o", str(target), "--json", *_platform(producer)).stdout
    )
    assert {file["state"] for file in told["files"]} == {"written"}
    assert found_in(target) == expected_of(producer)
    again = json.loads(
        cli("fetch", reference, "-o", str(target), "--json", *_platform(producer)).stdout
    )
    assert {file["state"] for file in again["files"]} == {"kept"}
    assert found_in(target) == expected_of(producer)


def found_in(directory: Path) -> dict[str, tuple[object, ...]]:
    """Path to mode, time and content of a file; directories to nothing."""
    found: dict[str, tuple[object, ...]] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        facts = (
            (stat.S_IMODE(status.st_mode), status.st_mtime_ns, path.read_bytes())
            if path.is_file()
            else ()
        )
        found[str(path.relative_to(directory))] = facts
    return found


def expected_of(producer: Producer) -> dict[str, tuple[object, ...]]:
    """Of a time that is not said it is not known what is there: the time of the fetch."""
    files = {
        path: (shown.mode, shown.mtime_ns or ANY, shown.data)
        for path, shown in producer.shows.items()
    }
    paths = [*producer.shows, *(f"{path}/." for path in producer.empty_directories)]
    directories = {str(above) for path in paths for above in Path(path).parents} - {"."}
    return dict.fromkeys(directories | set(producer.empty_directories), ()) | files


def _platform(producer: Producer) -> list[str]:
    return ["--platform", "linux/amd64"] if producer.name == "aikit-platforms" else []
