"""A small machine inside this one: a temporary directory and a namespace for its programs.

containerd, its shims, the containers and the daemon run in a mount and a process
namespace of their own, with an empty ``/run``. containerd keeps sockets in fixed
places below ``/run`` and its shims outlive it by design; here both are gone with
the namespace, also when the test run itself is killed. What a machine's own
containerd has in ``/run`` is out of reach.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

from integration.harness.processes import DIES_WITH_US, Port, Process, ProcessError, kill_through
from integration.harness.secrets import Guard, SecretFound

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = "modelpack-"

# Process 1 of the namespace: reaps what containerd leaves, ends when killed.
_INIT = """
mount -t tmpfs -o mode=755 tmpfs /run && : > "$0/up" || exit
while :; do sleep infinity & wait; done
"""


class CommandError(Exception):
    """A command exited with a status other than 0; the message holds what it wrote."""

    def __init__(self, result: subprocess.CompletedProcess[str]) -> None:
        self.stderr = result.stderr
        self.status = result.returncode
        written = (result.stderr.strip() or result.stdout.strip())[-2000:]
        super().__init__(f"{' '.join(map(str, result.args))}: status {self.status}: {written}")


class Machine:
    """Use it as a context manager: leaving it ends every program and deletes the directory."""

    made: ClassVar[list[Path]] = []
    """Directories of all machines this process ever made."""
    guard: ClassVar[Guard] = Guard()

    def __init__(self) -> None:
        _sweep()
        # /var/tmp is a disk where /tmp may be memory, and short: a socket's path
        # has 107 bytes.
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/var/tmp"))
        self.made.append(self.root)
        self._lock = _own(self.root)
        self.logs = self.directory("logs")
        self.cgroup = self.root.name
        self._started: list[Process] = []
        self._ports: list[Port] = []
        self._boot()

    def _boot(self) -> None:
        self._init = Process(
            ["sh", "-c", _INIT, str(self.root)],
            log=self.logs / "init.log",
            through=[
                *("unshare", "--pid", "--mount", "--fork", "--kill-child"),
                *("--mount-proc", "--propagation", "private"),
            ],
        )
        try:
            self._init.wait_until((self.root / "up").exists, "a namespace of its own")
        except BaseException:
            self.close()
            raise

    def reboot(self, *in_memory: Path) -> None:
        """As when a node is reset: all programs and mounts are gone, /run and what else is
        ``in_memory`` is empty, the disk is as it was."""
        self._init.kill()
        for process in self._started:
            process.kill()
        self._started.clear()
        (self.root / "up").unlink()
        for directory in in_memory:
            shutil.rmtree(directory)
            directory.mkdir()
        self._boot()

    @property
    def init_pid(self) -> int:
        """Process 1 of the namespace, as seen from here."""
        return self._init.pid

    def directory(self, name: str) -> Path:
        """An own directory of this machine; made when it is not there."""
        path = self.root / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def port(self) -> int:
        """A TCP port of the loopback interface that is this machine's for as long as it is."""
        self._ports.append(Port())
        return self._ports[-1].number

    def seen(self, path: Path) -> Path:
        """``path`` as the namespace's programs see it, with what is mounted there."""
        return Path(f"/proc/{self.init_pid}/root") / path.relative_to("/")

    def mounts(self) -> list[str]:
        """Mount points in the namespace."""
        lines = Path(f"/proc/{self.init_pid}/mountinfo").read_text().splitlines()
        return [line.split()[4] for line in lines]

    @property
    def entering(self) -> tuple[str, ...]:
        """The command that runs its arguments in the namespace."""
        return ("nsenter", "--target", str(self.init_pid), "--mount", "--pid", "--")

    def start(
        self, argv: Sequence[str], *, log: str, environment: Mapping[str, str] | None = None
    ) -> Process:
        """A program that goes on running, in the namespace."""
        process = Process(argv, log=self.logs / log, environment=environment, through=self.entering)
        self._started.append(process)
        return process

    def run(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        seconds: float = 120,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """A command that ends, in the namespace. Raises :class:`CommandError`."""
        with subprocess.Popen(
            [*self.entering, *DIES_WITH_US, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=None if environment is None else dict(environment),
            start_new_session=True,
        ) as command:
            try:
                stdout, stderr = command.communicate(timeout=seconds)
            except BaseException:
                kill_through(command)
                raise
        self.guard.check(stdout + stderr, f"what {argv[0]} said")
        result = subprocess.CompletedProcess(argv, command.returncode, stdout, stderr)
        if check and result.returncode != 0:
            raise CommandError(result)
        return result

    def close(self) -> None:
        """End every program, with SIGKILL: those that want more were stopped before.

        Raises :class:`SecretFound` when one of them wrote a secret to a file, such as its log.
        """
        self._init.kill()
        for process in self._started:
            process.kill()
        for port in self._ports:
            port.close()
        leaked: list[Path] = []
        if self.root.exists():
            leaked = self.guard.files(self.root)
            _remove(self.root)
        self._lock.close()
        if leaked:
            raise SecretFound(f"a secret was written to {', '.join(map(str, leaked))}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mounted_under(directory: Path) -> list[str]:
    """Mount points below ``directory`` in our own namespace, the deepest first."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if Path(point).is_relative_to(directory):
            found.append(point)
    return found[::-1]


def _remove(root: Path) -> None:
    """Delete a machine's directory, after what tests mounted there outside of the namespace."""
    for point in mounted_under(root):
        subprocess.run(["umount", "--lazy", point], check=True)
    # Containers that were killed with the namespace leave empty control groups.
    for group in control_groups(root):
        for path, _, _ in os.walk(group, topdown=False):
            try:
                Path(path).rmdir()
            except OSError as error:
                raise ProcessError(f"cannot remove the control group {path}: {error}") from None
    shutil.rmtree(root)


def control_groups(root: Path) -> list[Path]:
    """Control groups that containers of the machine with this directory were put into."""
    groups = Path("/sys/fs/cgroup")
    return [*groups.glob(root.name), *groups.glob(f"*/{root.name}")]


def _own(root: Path) -> IO[str]:
    """Name us the owner of a machine's directory, for as long as the lock is open.

    The kernel drops the lock with the process. A pid alone would not do: it is used
    again, and means another process in another container that shares /var/tmp.
    """
    lock = (root / ".owner").open("w")
    lock.write(str(os.getpid()))
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)
    Path(lock.name).rename(root / "owner")  # appears locked
    return lock


def _sweep() -> None:
    """Delete directories of runs that were killed before they could."""
    for root in list(Path("/var/tmp").glob(f"{PREFIX}*")):
        try:
            with (root / "owner").open() as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _remove(root)
        except BlockingIOError:
            continue  # a run that goes on
        except (OSError, ProcessError):
            # Being made, or deleted, by a run of its own; none of ours; or its programs are
            # still ending: then the next one deletes it.
            continue
