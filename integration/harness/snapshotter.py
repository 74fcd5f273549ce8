"""The daemon under test."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Self

import httpx

from integration.harness.configuration import render
from integration.harness.machine import REPOSITORY, Machine
from integration.harness.places import Places
from integration.harness.processes import accepts
from snapshotter.cache.held import map_of

PROGRAMS = REPOSITORY / ".venv" / "bin"


class Snapshotter:
    """A running ``modelpack-snapshotter``; the ``modelpack`` command pointed at it."""

    program: Sequence[str] = (str(PROGRAMS / "modelpack-snapshotter"),)

    def __init__(
        self, machine: Machine, places: Places, *, additions: Mapping[str, Any] | None = None
    ) -> None:
        """Start it with the sample configuration, and return when its socket answers."""
        self.machine = machine
        self.places = places
        self.configuration = machine.directory("snapshotter") / "config.toml"
        home = str(machine.directory("home"))
        # Whoever runs the tests keeps credentials and blobs out of them.
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": home,
            "DOCKER_CONFIG": home,
        }
        keeper = {"keeper": {"cgroup": f"{machine.cgroup}/keeper"}}
        self.configuration.write_text(
            render("modelpack-snapshotter.toml", places, [keeper, additions or {}])
        )
        self.start()

    def begin(self) -> None:
        """Start it, and return before it can do anything."""
        self.process = self.machine.start(
            [*self.program, "--config", str(self.configuration)],
            log="modelpack-snapshotter.log",
            environment=self.environment,
        )

    def start(self) -> None:
        self.begin()
        socket = self.places.state / "snapshotter.sock"
        try:
            self.process.wait_until(lambda: accepts(socket), f"an answer on {socket.name}")
        except BaseException:
            self.process.kill()
            raise

    def modelpack(self, *arguments: str, seconds: float = 600) -> str:
        """Run ``modelpack``; what it printed. Raises :class:`CommandError`."""
        argv = [str(PROGRAMS / "modelpack"), "--config", str(self.configuration), *arguments]
        return self.machine.run(argv, environment=self.environment, seconds=seconds).stdout

    def status(self) -> dict[str, Any]:
        """What ``modelpack status --json`` prints, without the start of a program."""
        transport = httpx.HTTPTransport(uds=str(self.places.state / "api.sock"))
        with httpx.Client(transport=transport, timeout=60) as client:
            answer = client.get("http://daemon/v1/status").raise_for_status()
        self.machine.guard.check(answer.text, "the status")
        told: dict[str, Any] = answer.json()
        return told

    def wait_until_verified(self) -> None:
        """Until the disk, too, has every blob of what is mounted as verified: a moment after the
        status says so. The kernel may read them itself then, and the next daemon knows them."""
        kept = self.places.root / "cache" / "blobs"

        def verified() -> bool:
            blobs = [blob for model in self.status()["models"] for blob in model["blobs"]]
            maps = [map_of(kept, blob["digest"]) for blob in blobs]
            return bool(maps) and all(found is not None and found.verified for found in maps)

        self.process.wait_until(verified, "the verification", seconds=90)

    def stop(self) -> None:
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
