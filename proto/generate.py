"""Writes the Python stubs of every .proto file here: ``python -m proto.generate``.

Needs the development requirements (grpcio-tools, mypy-protobuf). The stubs are
checked in, so that nobody else does; a test fails when they are stale.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""Include root of the .proto files: their import paths begin with ``proto/``."""


def sources() -> list[Path]:
    """Relative to :data:`ROOT`."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / "proto").rglob("*.proto"))


def generate(target: Path) -> None:
    """Write messages, services and the types of both below ``target``/proto."""
    files = sources()
    services = [file for file in files if "\nservice " in (ROOT / file).read_text()]
    _protoc(files, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    _protoc(services, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")


def _protoc(files: list[Path], *outputs: str) -> None:
    scripts = sysconfig.get_path("scripts")  # where protoc finds its mypy plugins
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *map(str, files)],
        cwd=ROOT,
        env=os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"},
        check=True,
    )


if __name__ == "__main__":
    generate(ROOT)
