from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from snapshotter.cli import status


def shown(state: str, *, passthrough: bool) -> str:
    model: dict[str, Any] = {
        "reference": "registry.example.com/models/tiny",
        "files": 1,
        "size_bytes": 10,
        "present_bytes": 10,
        "state": state,
        "passthrough": passthrough,
        "directory": "/mnt",
    }
    answer = {
        "version": "0",
        "pid": 1,
        "memory": {"rss_anon_bytes": 0},
        "cache": {
            "path": "/cache",
            "allocated_bytes": 1 << 20,
            "allowed_bytes": 1 << 30,
            "evicted_bytes": 0,
            "pins": [{"digest": "sha256:0", "references": ["r.example/m:1"], "size_bytes": 10}],
        },
        "fetched_bytes": 0,
        "hosts": [],
        "verification": {"wrong_blobs": 0, "wrong_chunks": 0, "quarantined": []},
        "rate_bytes_per_second": 0,
        "models": [model],
    }
    console = Console(width=200)
    with console.capture() as capture:
        status._show(answer, console)
    return capture.get()


@pytest.mark.parametrize(
    ("state", "passthrough", "expected"),
    [
        ("verified", True, "passthrough  /mnt"),
        ("partial", True, "passthrough once verified  /mnt"),
        ("verified", False, "through the daemon  /mnt"),
    ],
)
def test_status_says_by_whom_files_are_read(state: str, passthrough: bool, expected: str) -> None:
    assert expected in shown(state, passthrough=passthrough)
