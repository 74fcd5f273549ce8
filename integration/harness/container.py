"""A container that `ctr run` started, with a shell that waits for commands."""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import time
from collections.abc import Sequence
from typing import Self

from integration.harness.containerd import Containerd
from integration.harness.machine import CommandError
from integration.harness.processes import DIES_WITH_US
from integration.harness.rootfs import ROOTFS_IMAGE

_END = "--end-of-answer--"


class ContainerError(Exception):
    """A command in the container failed or never ended; the message holds what it wrote."""


class Container:
    """A running container of the rootfs image. Leaving it as a context manager removes it."""

    def __init__(
        self,
        containerd: Containerd,
        name: str,
        *,
        snapshotter: str = "overlayfs",
        mounts: Sequence[str] = (),
        options: Sequence[str] = (),
    ) -> None:
        """Start it. ``mounts`` are as `ctr run --mount` takes them; ``options`` are its own."""
        self._containerd = containerd
        self._name = name
        argv = [
            *("ctr", "run", "--rm", "--snapshotter", snapshotter),
            *("--cgroup", f"/{containerd.machine.cgroup}/{name}"),
            *(word for mount in mounts for word in ("--mount", mount)),
            *options,
            *(ROOTFS_IMAGE, name, "/bin/sh"),
        ]
        self._log = containerd.machine.logs / f"container-{name}.log"
        with self._log.open("wb") as log:
            self._popen = subprocess.Popen(
                [*DIES_WITH_US, *containerd.machine.entering, *argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=containerd.environment,
                start_new_session=True,
            )
        try:
            self.ask("true")
        except BaseException:
            self.close()
            raise

    def ask(self, command: str, *, seconds: float = 300) -> str:
        """Run a shell command in the container; what it wrote, without the last newline.

        Raises :class:`ContainerError` when it exits with another status than 0.
        """
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(
                f"{{ {command}\n}} 2>&1 </dev/null; status=$?; echo; echo {_END} $status\n".encode()
            )
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise ContainerError(f"container {self._name} ended: {self._written()}") from None
        answer = self._answer(command, time.monotonic() + seconds)
        written, _, status = answer.rpartition(f"\n{_END} ")
        if status.strip() != "0":
            raise ContainerError(
                f"in container {self._name}: {command}: status {status.strip()}: {written.strip()}"
            )
        return written.rstrip("\n")

    def _answer(self, command: str, deadline: float) -> str:
        output = self._popen.stdout
        assert output is not None
        received = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while not (received.endswith(b"\n") and _END.encode() in received):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise ContainerError(f"in container {self._name}: {command}: no end in time")
                chunk = output.read1(1 << 16)  # type: ignore[attr-defined]
                if not chunk:
                    raise ContainerError(
                        f"container {self._name} ended during: {command}: {self._written()}"
                    )
                received += chunk
        return received.decode(errors="replace")

    def _written(self) -> str:
        return self._log.read_text(errors="replace").strip()[-1000:]

    def close(self) -> None:
        """End the shell, and so the container, which is then removed."""
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(b"exit\n")
            self._popen.stdin.close()
        except BrokenPipeError:
            pass  # the container ended before
        try:
            self._popen.wait(60)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(CommandError):  # it has ended by itself after all
                self._containerd.ctr("tasks", "kill", "--signal", "SIGKILL", self._name)
            self._popen.wait(60)
        finally:
            assert self._popen.stdout is not None
            self._popen.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
