"""Where the bytes come from: a real registry on loopback, or our own range server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

from snapshotter.artifact.digest import Digest, digest_of
from snapshotter.artifact.mediatypes import OCI_MANIFEST
from snapshotter.bench.errors import BenchError, Unavailable
from snapshotter.bench.process import Child, die_with_parent
from snapshotter.pack.record import SourceBlob
from snapshotter.registry.client import Registry
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

TAG = "bench"
_START_SECONDS = 30.0


class OwnOrigin:
    """:mod:`snapshotter.bench.children.origin` in a process of its own."""

    description = "our own range server (sendfile)"

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._child = stack.enter_context(Child("origin"))
        self.address: str = self._child.ask()["address"]

    def publish(
        self, repository: str, manifest: bytes, config: bytes, blobs: list[SourceBlob]
    ) -> None:
        """Serve a manifest and what it names; only tar layers are copied."""
        served = [(digest_of(config), self._file(config), len(config))]
        for blob in blobs:
            path = self._joined(blob) if blob.header else blob.file
            served.append((Digest(blob.digest), path, blob.size))
        self.serve(repository, manifest, served)

    def serve(self, repository: str, manifest: bytes, blobs: list[tuple[Digest, str, int]]) -> None:
        """``blobs``: digest, path and size; whether the digest is right nobody checks here."""
        self._child.ask(
            put={
                "repository": repository,
                "tag": TAG,
                "digest": digest_of(manifest),
                "media_type": OCI_MANIFEST,
                "manifest": manifest.decode(),
                "blobs": blobs,
            }
        )

    def keep(self, data: bytes) -> tuple[Digest, str, int]:
        """A small blob, ready for :meth:`serve`."""
        return digest_of(data), self._file(data), len(data)

    def _file(self, data: bytes) -> str:
        path = self._path(digest_of(data))
        path.write_bytes(data)
        return str(path)

    def _joined(self, blob: SourceBlob) -> str:
        path = self._path(Digest(blob.digest))
        with path.open("wb") as file:
            for piece in blob.pieces():
                file.write(piece)
        return str(path)

    def _path(self, digest: Digest) -> Path:
        self._directory.mkdir(exist_ok=True)
        return self._directory / digest.replace(":", "-")


class DockerRegistry:
    """The registry of the distribution project, as Debian packages it."""

    def __init__(self, program: str, directory: Path, stack: ExitStack) -> None:
        directory.mkdir(exist_ok=True)  # of one that did not start for an earlier case
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.description = f"docker-registry ({_version(program)})"
        configuration = directory / "config.yml"
        # YAML, of which JSON is a part.
        configuration.write_text(
            json.dumps(
                {
                    "version": "0.1",
                    "log": {"level": "error", "accesslog": {"disabled": True}},
                    "storage": {"filesystem": {"rootdirectory": str(directory / "data")}},
                    "http": {"addr": self.address, "secret": "one instance, nothing to share"},
                }
            )
        )
        self._log = directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [program, "serve", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        stack.callback(self._stop)
        self._wait(port)

    def publish(
        self, repository: str, manifest: bytes, config: bytes, blobs: list[SourceBlob]
    ) -> None:
        """Push; what the registry has already is not sent again."""
        reference = Reference(self.address, repository, TAG, None)
        registry = Registry(RegistryOptions(certs_d=()))
        try:
            for blob in blobs:
                digest = Digest(blob.digest)
                if not registry.has_blob(reference, digest):
                    registry.upload_blob(reference, digest, blob.size, blob.pieces)
            registry.upload_blob(reference, digest_of(config), len(config), lambda: iter((config,)))
            registry.put_manifest(reference, OCI_MANIFEST, manifest)
        finally:
            registry.close()

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    lines = self._log.read_text(errors="replace").strip().splitlines()
                    raise BenchError(
                        f"docker-registry does not start: {lines[-1] if lines else 'no word'}"
                    ) from None
                time.sleep(0.02)

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait()


def start_registry(program: str, directory: Path, stack: ExitStack) -> DockerRegistry | OwnOrigin:
    """The program that is named, else docker-registry from PATH, else our own."""
    found = shutil.which(program or "docker-registry")
    if found is None and program:
        raise Unavailable(f"{program} is no program: give the path of docker-registry")
    if found is None:
        return OwnOrigin(directory, stack)
    return DockerRegistry(found, directory, stack)


def _version(program: str) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    words = said.stdout.split()
    return words[-1] if words else "unknown version"
