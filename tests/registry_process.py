"""A real registry on loopback: Debian's docker-registry, unpacked by script/setup."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from integration.harness.processes import Port

USER, PASSWORD = "reader", "Tr0mbone-of-tests"
# bcrypt, which the registry insists on, of the password above.
_HTPASSWD = "reader:$2b$05$l59GthN2LgpNgu7ljD.nMuIUo7wmEK14UWbVXgDkUOTk3l/TXkY6W\n"
_UNPACKED = Path(__file__).parents[1] / ".tools" / "registry" / "usr" / "bin" / "docker-registry"


class RegistryProcess:
    """Runs from the beginning to the end of a ``with``; ``private`` wants USER and PASSWORD."""

    def __init__(self, directory: Path, *, private: bool = False) -> None:
        self._port = Port()
        self.address = f"127.0.0.1:{self._port.number}"
        self.storage = directory / "data"
        configuration: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.address, "secret": "one instance, nothing to share"},
        }
        if private:
            htpasswd = directory / "htpasswd"
            htpasswd.write_text(_HTPASSWD)
            configuration["auth"] = {"htpasswd": {"realm": "tests", "path": str(htpasswd)}}
        self._file = directory / "config.yml"
        # The registry reads YAML, of which JSON is a part.
        self._file.write_text(json.dumps(configuration))
        self._log = directory / "log"

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # The kernel kills it when we end, also when we are killed.
                ["setpriv", "--pdeathsig", "KILL", "--", _program(), "serve", str(self._file)],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        host, port = self.address.split(":")
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection((host, int(port)), timeout=1).close()
                return self
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    raise RuntimeError(f"no registry: {self._log.read_text()}") from None
                time.sleep(0.01)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._port.close()


def _program() -> str:
    if _UNPACKED.exists():
        return str(_UNPACKED)
    on_path = shutil.which("docker-registry")
    if on_path is None:
        raise FileNotFoundError(f"{_UNPACKED} is missing: run script/setup")
    return on_path
