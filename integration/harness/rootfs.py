"""A small image for containers, made from this machine's programs: no network is needed.

busybox is the userland. Shell, sha256sum, dd and a few more are the machine's own, which
are faster or know more; with busybox's shell it would run its own before any on PATH.
The bytes are the same each time on the same machine.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

from integration.harness.images import BytesLayer, Image

ROOTFS_IMAGE = "registry.test/rootfs:latest"
_OWN_PROGRAMS = ("dash", "date", "dd", "find", "sha256sum", "stat", "xargs")


def write_rootfs(archive: Path) -> None:
    """Write the image, named :data:`ROOTFS_IMAGE`, as an archive that `ctr images import` reads."""
    process = {
        "Env": ["PATH=/usr/local/bin:/bin", "LANG=C.UTF-8"],
        "Cmd": ["/bin/sleep", "infinity"],  # CRI keeps pods alive with it
    }
    Image.of([BytesLayer(_layer())], process).write(archive, ROOTFS_IMAGE)


def _layer() -> bytes:
    busybox = shutil.which("busybox")
    if busybox is None:
        raise FileNotFoundError("no busybox on PATH: script/setup installs it")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True)
    files = {"bin/busybox": Path(busybox)}
    for name in _OWN_PROGRAMS:
        program = shutil.which(name, path="/usr/bin:/bin")
        if program is None:
            raise FileNotFoundError(f"no {name} in /usr/bin")
        files[f"usr/local/bin/{name}"] = Path(program)
        files |= {library.lstrip("/"): Path(library) for library in _libraries(program)}

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as layer:
        directories = {"dev", "proc", "sys", "tmp", "etc", "models", "root"}
        directories |= {str(p) for name in files for p in Path(name).parents if str(p) != "."}
        for name in sorted(directories):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            layer.addfile(entry)
        for name, source in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.size = 0o755, source.stat().st_size
            with source.open("rb") as content:
                layer.addfile(entry, content)
        links = dict.fromkeys(applets.stdout.split(), "busybox") | {"sh": "/usr/local/bin/dash"}
        del links["busybox"]
        for name, target in sorted(links.items()):
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            layer.addfile(entry)
    return buffer.getvalue()


def _libraries(program: str) -> list[str]:
    """Absolute paths of the libraries and the loader, as the program names them."""
    told = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    return re.findall(r"(/\S+)(?= \(0x)", told)
