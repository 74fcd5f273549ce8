from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from snapshots_harness import Client, Place, mounted


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def client(place: Place) -> Iterator[Client]:
    with place.start() as client:
        yield client


@pytest.fixture
def build(client: Client, place: Place) -> Callable[..., str]:
    """``build(name, parent, change)``: a committed snapshot that ``change(directory)`` made."""

    def build(
        name: str, parent: str = "", change: Callable[[Path], object] = lambda _: None
    ) -> str:
        with mounted(client.prepare(f"{name}-a", parent), place.work / f"{name}-a") as directory:
            change(directory)
        client.commit(name, f"{name}-a")
        return name

    return build
