"""Configuration as the documentation shows it: tests run what people are told to write."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from integration.harness.machine import REPOSITORY

DAEMON = "/etc/modelpack-snapshotter/config.toml"
CONTAINERD = "/etc/containerd/config.toml"


def toml_block(page: str, file: str, key: str) -> dict[str, Any]:
    """The TOML block of docs/``page`` that belongs into ``file`` and in which ``key`` occurs."""
    text = (REPOSITORY / "docs" / page).read_text()
    blocks = re.findall(rf"```toml\n# {re.escape(file)}\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if re.search(rf"\b{re.escape(key)}\b", block)]
    return tomllib.loads(block)
