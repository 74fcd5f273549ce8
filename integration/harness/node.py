"""A node without containerd: the daemon's rooms up to mounts and its management API.

As a program it takes the configuration as JSON, and mounts the models it is told; from
outside :class:`Node` starts it, and reads what it shows in processes of their own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import httpx

from integration.harness.machine import REPOSITORY, Machine
from integration.harness.processes import children_of
from snapshotter.api import ApiServer, status_of
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.bench.children.talk import answer_all
from snapshotter.cache.documents import Documents
from snapshotter.cache.store import BlobStore
from snapshotter.config import Config, parse_config
from snapshotter.environment import collect_rarely, raise_file_limit
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.logs import configure_logs
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.table import Mounts
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference


class Node:
    """A running node in the namespace of ``machine``."""

    def __init__(
        self, machine: Machine, configuration: Mapping[str, Any], *, name: str = "node"
    ) -> None:
        self.machine = machine
        self.directory = machine.directory(name)
        self.certs = machine.directory(f"{name}/certs.d")
        self.log = machine.logs / f"{name}.log"
        tables = {
            "root": str(self.directory / "root"),
            "state": str(self.directory / "state"),
            "log": {"format": "json"},
            **configuration,
        }
        tables["registry"] = {
            "certs_d": [str(self.certs)],
            "docker_config": str(self.directory),
            **tables.get("registry", {}),
        }
        self._lock = threading.Lock()
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                [
                    *machine.entering,
                    sys.executable,
                    "-m",
                    "integration.harness.node",
                    json.dumps(tables),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        self._ask()  # it is up
        self.pid = children_of(self._popen.pid)[0]
        """As seen from here."""

    def mount(self, reference: str) -> Path:
        """Where the model is, as programs in the namespace see it. Raises RuntimeError."""
        return Path(self._ask(mount=reference)["directory"])

    def status(self) -> dict[str, Any]:
        transport = httpx.HTTPTransport(uds=str(self.directory / "state" / "api.sock"))
        with httpx.Client(transport=transport, timeout=60) as client:
            answer = client.get("http://node/v1/status").raise_for_status()
        Machine.guard.check(answer.text, "the status")
        told: dict[str, Any] = answer.json()
        return told

    def host(self, address: str) -> dict[str, Any]:
        """What the status says of one host."""
        (found,) = (host for host in self.status()["hosts"] if host["host"] == address)
        return dict(found)

    def events(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines of the log, or those of one event."""
        text, _, _ = self.log.read_text().rpartition("\n")  # behind it one may be half written
        lines = [json.loads(line) for line in text.splitlines()]
        return [line for line in lines if event in (None, line["event"])]

    def _ask(self, **what: Any) -> dict[str, Any]:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        with self._lock:
            self._popen.stdin.write(json.dumps(what) + "\n")
            self._popen.stdin.flush()
            line = self._popen.stdout.readline()
        if not line:
            raise RuntimeError(f"the node ended: {self.log.read_text()[-2000:]}")
        Machine.guard.check(line, "an answer of the node")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.close()
        try:
            self._popen.wait(60)
        finally:
            self._popen.kill()
            self._popen.wait()
            self._popen.stdout.close()


def _run(config: Config, stack: ExitStack) -> None:
    root, state = Path(config.root), Path(config.state)
    state.mkdir(parents=True)
    registry = Registry(config.registry)
    stack.callback(registry.close)
    store = BlobStore(root / "cache", config.cache)
    stack.callback(store.close)
    fetcher = Fetcher(
        config.fetch,
        on_verified=lambda blob: mounts.verified(blob),
        on_bad=lambda blob: mounts.condemned(blob),
    )
    stack.callback(fetcher.close)
    loader = Loader(registry, Documents(root / "documents"), store, fetcher)
    mounts = Mounts(state / "mounts", loader, fetcher, config.mounts)
    stack.callback(mounts.close)
    stack.callback(fetcher.close)
    api = ApiServer(config.api_address, status_of(store, fetcher, mounts, registry))
    stack.callback(api.stop)
    api.start()

    def answer(told: dict[str, Any]) -> dict[str, Any]:
        if "mount" not in told:
            return {}
        reference = Reference.parse(told["mount"])
        assert reference.digest is not None
        digest = parse_digest(reference.digest)
        ref = ModelRef(reference.registry, reference.repository, digest)
        return {"directory": str(mounts.mount(ref))}

    answer_all(answer)


def main() -> None:
    config = parse_config(json.loads(sys.argv[1]), "configuration of the node")
    configure_logs(config.log)
    raise_file_limit()
    collect_rarely()
    with ExitStack() as stack:
        _run(config, stack)


if __name__ == "__main__":
    main()
