"""A tiny FUSE mount, to see what kernel and cache disk really do.

It is made by a process of its own, in a mount namespace of its own: whatever goes wrong,
killing that process takes the mount away. The process is this module run as a program;
it prints what it saw as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from fuse.kernel import InitFlag
from fuse.mount import MountError, mount
from fuse.negotiate import InitReply
from fuse.session import Session
from fuse.tree import File, Tree
from snapshotter.doctor.finding import Finding, error, ok, run, unknown, warning
from snapshotter.doctor.kernel import PART, parse_release

_SECONDS = 15.0
_CLONE_NEWNS = 0x00020000
_MS_REC_PRIVATE = 0x4000 | (1 << 18)
_CONTENT = b"modelpack" * 1000


@dataclass(frozen=True, slots=True)
class ProbeFacts:
    """What the tiny mount showed."""

    failure: str = ""
    """Why there was none; the rest is meaningless then."""
    read: bool = False
    """Whether what was read was right."""
    passthrough: bool = False
    """Whether kernel and process agreed on it."""
    backing: str = ""
    """Why a file on the cache's disk cannot be read by the kernel itself; empty: it can."""
    resend: bool = False
    """Whether requests are resent to the daemon that follows a killed one."""
    idmap: bool = False
    """Whether the mount may be id-mapped, for pods with user namespaces."""

    @classmethod
    def decode(cls, text: str) -> Self:
        """Raises :class:`ValueError` or :class:`TypeError` for what is none of ours."""
        return cls(**json.loads(text))


def gather(cache: Path) -> ProbeFacts:
    """Mount, and try passthrough with a nameless file in ``cache`` or its nearest parent.

    Takes at most some 15 seconds.
    """
    if os.geteuid() != 0:
        return ProbeFacts(failure="only root can try a mount")
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(cache)],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return ProbeFacts(failure=f"a mount did not answer in {_SECONDS:g} s")
    try:
        return ProbeFacts.decode(done.stdout)
    except (ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return ProbeFacts(failure=f"a mount could not be tried: {last}")


def judge(facts: ProbeFacts, *, release: str, root: bool) -> list[Finding]:
    """``release``: the kernel's; ``root``: whether a mount could be tried at all."""
    if facts.failure:
        if not root:
            return [unknown(PART, "fuse-mount", f"no mount tried: {facts.failure}")]
        return [
            error(
                PART,
                "fuse-mount",
                f"FUSE does not work: {facts.failure}",
                "no model can be mounted",
                run("modprobe fuse", "dmesg | tail"),
            )
        ]
    if not facts.read:
        return [
            error(
                PART,
                "fuse-mount",
                "a file of a FUSE mount read back other bytes than it has",
                "models would be damaged",
                run("dmesg | tail"),
            )
        ]
    found = [ok(PART, "fuse-mount", "a FUSE mount was made, read and removed")]
    new = parse_release(release) >= (6, 9)
    if facts.passthrough and not facts.backing:
        found.append(ok(PART, "passthrough", "the kernel reads complete files by itself"))
    elif facts.passthrough:
        found.append(
            warning(
                PART,
                "passthrough",
                f"the kernel cannot read files of the cache by itself: {facts.backing}",
                "complete models are read through the daemon, slower",
                run("# put the daemon's root on ext4 or xfs"),
            )
        )
    elif new:
        found.append(
            warning(
                PART,
                "passthrough",
                f"Linux {release} was built without FUSE passthrough",
                "complete models are read through the daemon, slower",
                run("# use a kernel with CONFIG_FUSE_PASSTHROUGH=y"),
            )
        )
    if facts.resend:
        found.append(ok(PART, "resend", "the kernel resends requests to a new daemon"))
    elif new:
        found.append(
            warning(
                PART,
                "resend",
                "the kernel does not resend requests to a new daemon",
                "reads that are under way when the daemon is killed fail",
                run("# use an unpatched kernel of 6.9 or newer"),
            )
        )
    if facts.idmap:
        found.append(ok(PART, "idmap", "mounts may be id-mapped"))
    elif parse_release(release) >= (6, 12):
        found.append(
            warning(
                PART,
                "idmap",
                "the kernel does not map the IDs of FUSE mounts",
                "in pods with a user namespace a model's files can be read, but are nobody's",
                run("# use an unpatched kernel of 6.12 or newer"),
            )
        )
    else:
        found.append(
            ok(PART, "idmap", "in pods with a user namespace a model's files are nobody's")
        )
    return found


def _probe(cache: Path) -> ProbeFacts:
    _leave_namespace()
    with TemporaryDirectory(prefix="modelpack-doctor-") as directory:
        try:
            fd = mount(directory, fsname="modelpack-doctor", subtype="modelpack-doctor")
        except MountError as refused:
            return ProbeFacts(failure=str(refused))
        tree = Tree(
            {b"file": File(_CONTENT, len(_CONTENT))},
            lambda request, file: request.reply(
                memoryview(file.content)[request.offset : request.offset + request.size]
            ),
        )
        session = Session(fd, tree)
        session.start()
        try:
            read = (Path(directory) / "file").read_bytes() == _CONTENT
            agreed = session.negotiated
            return ProbeFacts(
                read=read,
                passthrough=session.passthrough,
                backing=_try_backing(session, cache) if session.passthrough else "",
                resend=_has(agreed, InitFlag.HAS_RESEND),
                idmap=_has(agreed, InitFlag.ALLOW_IDMAP),
            )
        finally:
            _libc.umount2(os.fsencode(directory), 2)
            session.stop()
            os.close(fd)


def _has(agreed: InitReply | None, flag: InitFlag) -> bool:
    return agreed is not None and flag in agreed.flags


def _try_backing(session: Session, cache: Path) -> str:
    existing = next(path for path in (cache, *cache.parents) if path.is_dir())
    try:
        backing = os.open(existing, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as refused:
        return f"no file can be made in {existing}: {refused.strerror}"
    try:
        session.close_backing(session.open_backing(backing))
    except OSError as refused:
        if refused.errno == errno.ELOOP:
            return f"{existing} lies on overlayfs"
        return f"{existing}: {refused.strerror}"
    finally:
        os.close(backing)
    return ""


_libc = ctypes.CDLL(None, use_errno=True)


def _leave_namespace() -> None:
    """What is mounted from here on is seen by nobody else, and ends with this process."""
    if _libc.unshare(_CLONE_NEWNS) != 0 or _libc.mount(b"none", b"/", None, _MS_REC_PRIVATE, None):
        raise OSError(ctypes.get_errno(), "cannot make a mount namespace")


if __name__ == "__main__":
    print(json.dumps(asdict(_probe(Path(sys.argv[1])))))
