"""A registry on the loopback interface: Debian's docker-registry."""

from __future__ import annotations

import json
import shutil
from typing import Self

from integration.harness.containerd import TOOLS
from integration.harness.machine import Machine
from integration.harness.processes import Process, accepts

USER, PASSWORD = "reader", "Tr0mbone-of-tests"
# bcrypt, which the registry insists on, of the password above.
_HTPASSWD = "reader:$2b$05$l59GthN2LgpNgu7ljD.nMuIUo7wmEK14UWbVXgDkUOTk3l/TXkY6W\n"


class Registry:
    """A running registry, empty at first."""

    def __init__(self, machine: Machine, *, name: str = "registry", private: bool = False) -> None:
        """``private``: only :data:`USER` with :data:`PASSWORD` may read and write."""
        directory = machine.directory(name)
        port = machine.port()
        self.host = f"127.0.0.1:{port}"
        self.storage = directory / "data"
        configuration = {
            "version": "0.1",
            "log": {"level": "warn"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
            },
            "http": {"addr": self.host, "secret": "one instance, nothing to share"},
        }
        if private:
            htpasswd = directory / "htpasswd"
            htpasswd.write_text(_HTPASSWD)
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(htpasswd)}}
        # The registry reads YAML, of which JSON is a part.
        (directory / "config.yml").write_text(json.dumps(configuration))
        self._argv = [_program(), "serve", str(directory / "config.yml")]
        self._address = ("127.0.0.1", port)
        self._machine, self._name = machine, name
        self.start()

    def start(self) -> None:
        """Start it again after :meth:`stop`, on the same port, with what it held."""
        self.process: Process = self._machine.start(self._argv, log=f"{self._name}.log")
        try:
            self.process.wait_until(lambda: accepts(self._address), f"an answer on {self.host}")
        except BaseException:
            self.process.kill()
            raise

    def stop(self) -> None:
        self.process.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _program() -> str:
    unpacked = TOOLS / "registry" / "usr" / "bin" / "docker-registry"
    if unpacked.exists():
        return str(unpacked)
    on_path = shutil.which("docker-registry")
    if on_path is None:
        raise FileNotFoundError("no docker-registry: run script/setup")
    return on_path
