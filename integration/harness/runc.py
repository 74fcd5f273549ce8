"""The runc programs there are: what a pod may be depends on them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from integration.harness.machine import REPOSITORY

RUNC = REPOSITORY / ".tools" / "runc" / "usr" / "sbin" / "runc"
"""The one of the machine's own distribution, which runs all containers unless told otherwise."""
_NEWER = REPOSITORY / ".tools" / "runc-1.2" / "usr" / "sbin" / "runc"


def runcs() -> Iterator[Path]:
    """Those that script/setup unpacked, and the one on PATH."""
    on_path = shutil.which("runc")
    for runc in (RUNC, _NEWER, *([Path(on_path)] if on_path else ())):
        if runc.exists():
            yield runc


def maps_mounts(runc: Path) -> bool:
    """Whether it can map the IDs of mounts (1.2 and newer), as pods with a user namespace need."""
    try:
        told = subprocess.run([runc, "features"], capture_output=True, text=True, check=True).stdout
    except OSError:
        return False  # .tools was moved: its runc knows its loader by its place
    extensions = json.loads(told)["linux"].get("mountExtensions") or {}
    return bool(extensions.get("idmap", {}).get("enabled"))
