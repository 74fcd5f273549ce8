"""Whatever is wrong: one line that names it and what to do, status not 0, nothing half made."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from fuse.mount import fuse_mounts
from integration.harness.machine import Machine
from integration.harness.registry import PASSWORD, USER, Registry
from integration.harness.snapshotter import PROGRAMS
from snapshotter.artifact.digest import digest_of
from snapshotter.registry.client import Registry as Client
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
CONFIG = "application/vnd.cncf.model.config.v1+json"
RAW = "application/vnd.cncf.model.weight.v1.raw"


class Commands:
    """Runs our two programs as a user does, with a home of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.mount_point = home / "mnt"
        self.mount_point.mkdir()
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "DOCKER_CONFIG": str(home / ".docker"),
        }

    def run(
        self, *argv: str, through: Sequence[str] = (), program: str = "modelpack"
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*through, str(PROGRAMS / program), *argv],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=60,
            check=False,
        )

    def fails(self, *argv: str, through: Sequence[str] = (), program: str = "modelpack") -> str:
        """Run what must fail; the one line it says."""
        result = self.run(*argv, through=through, program=program)
        assert result.returncode not in (0, -11, -6), result.stdout
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in lines[0]
        assert re.match(rf"{program}: ", lines[0]), lines[0]
        assert not fuse_mounts_below(self.home), "something is mounted after an error"
        return lines[0]

    def daemon_fails(self, configuration: str = "", *, through: Sequence[str] = ()) -> str:
        path = self.home / "config.toml"
        path.write_text(
            f'root = "{self.home}/root"\nstate = "{self.home}/state"\n'
            if not configuration.startswith("root")
            else ""
        )
        with path.open("a") as file:
            file.write(configuration)
        return self.fails("--config", str(path), through=through, program="modelpack-snapshotter")


def fuse_mounts_below(directory: Path) -> list[Path]:
    return [m.mount_point for m in fuse_mounts() if m.mount_point.is_relative_to(directory)]


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path)


def put(host: str, name: str, document: dict[str, Any], media_type: str, *blobs: bytes) -> str:
    """Put an artifact into a registry; its reference."""
    reference = Reference.parse(f"{host}/{name}:1")
    client = Client(RegistryOptions(certs_d=()))
    try:
        for blob in blobs:
            client.upload_blob(reference, digest_of(blob), len(blob), partial(_once, blob))
        client.put_manifest(reference, media_type, json.dumps(document).encode())
    finally:
        client.close()
    return str(reference)


def _once(blob: bytes) -> Iterator[bytes]:
    yield blob


def descriptor(media_type: str, data: bytes, name: str = "") -> dict[str, Any]:
    annotations = {"annotations": {"org.cncf.model.filepath": name}} if name else {}
    return {
        "mediaType": media_type,
        "digest": digest_of(data),
        "size": len(data),
        **annotations,
    }


def model_of(*layers: dict[str, Any]) -> dict[str, Any]:
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": MODEL,
        "config": descriptor(CONFIG, b"{}"),
        "layers": list(layers),
    }


@pytest.fixture
def model(registry: Registry) -> str:
    data = b"weights" * 1000
    return put(
        registry.host, "m/good", model_of(descriptor(RAW, data, "w.safetensors")), MANIFEST,
        b"{}", data,
    )  # fmt: skip


def test_a_registry_that_is_down(commands: Commands, registry: Registry, model: str) -> None:
    registry.stop()
    said = commands.fails("mount", model, str(commands.mount_point))
    assert registry.host in said
    assert "connection refused" in said


def test_a_tag_that_does_not_exist(commands: Commands, model: str) -> None:
    said = commands.fails("mount", f"{model}23", str(commands.mount_point))
    assert "123" in said
    assert "check the name" in said


def test_a_registry_that_wants_a_password(commands: Commands, machine: Machine) -> None:
    with Registry(machine, name="private", private=True) as registry:
        said = commands.fails("inspect", f"{registry.host}/m/secret:1")
        assert registry.host in said
        assert "docker login" in said


def test_a_registry_that_refuses_the_password(commands: Commands, machine: Machine) -> None:
    wrong = "no-" + PASSWORD
    with Registry(machine, name="private", private=True) as registry:
        docker = commands.home / ".docker"
        docker.mkdir()
        auths = {registry.host: {"username": USER, "password": wrong}}
        (docker / "config.json").write_text(json.dumps({"auths": auths}))
        said = commands.fails("inspect", f"{registry.host}/m/secret:1")
        assert registry.host in said
        assert wrong not in said


class Scripted(BaseHTTPRequestHandler):
    """A registry that is wrong in one way."""

    answer: Callable[[Scripted], None]

    def do_GET(self) -> None:
        type(self).answer(self)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def scripted(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    handler = type("Handler", (Scripted,), {"answer": staticmethod(answer)})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_registry_that_forbids(commands: Commands) -> None:
    def forbid(request: BaseHTTPRequestHandler) -> None:
        request.send_response(403)
        request.send_header("Content-Length", "0")
        request.end_headers()

    with scripted(forbid) as host:
        said = commands.fails("mount", f"{host}/m/x:1", str(commands.mount_point))
        assert "403" in said or "denied" in said
        assert host in said


def test_a_server_that_answers_ranges_with_other_ranges(commands: Commands) -> None:
    data = os.urandom(1 << 20)
    manifest = json.dumps(model_of(descriptor(RAW, data, "w.safetensors"))).encode()

    def answer(request: BaseHTTPRequestHandler) -> None:
        if "/blobs/" in request.path:
            body = data[1000:2000]
            request.send_response(206)
            request.send_header("Content-Range", f"bytes 1000-1999/{len(data)}")
        else:
            body = manifest
            request.send_response(200)
            request.send_header("Content-Type", MANIFEST)
            request.send_header("Docker-Content-Digest", digest_of(manifest))
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    log = commands.home / "log"
    with scripted(answer) as host:
        mounted = commands.run(
            "mount", f"{host}/m/x:1", str(commands.mount_point), "-d", "--log", str(log)
        )
        assert mounted.returncode == 0, mounted.stderr
        try:
            read = subprocess.run(
                ["cat", str(commands.mount_point / "w.safetensors")],
                capture_output=True,
                timeout=60,
                check=False,
            )
        finally:
            assert commands.run("umount", str(commands.mount_point)).returncode == 0
        assert read.stdout == b""
        assert b"Input/output error" in read.stderr
        assert host in log.read_text()
        assert "1000-1999" in log.read_text()


def test_an_ordinary_image(commands: Commands, registry: Registry) -> None:
    image_config = "application/vnd.oci.image.config.v1+json"
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": descriptor(image_config, b"{}"),
        "layers": [],
    }
    reference = put(registry.host, "m/image", document, MANIFEST, b"{}")
    said = commands.fails("mount", reference, str(commands.mount_point))
    assert f"{reference} is no model" in said
    assert image_config in said


def test_an_index_without_our_platform(commands: Commands, registry: Registry, model: str) -> None:
    raw = json.dumps(
        model_of(descriptor(RAW, b"weights" * 1000, "w.safetensors")), separators=None
    ).encode()
    put(registry.host, "m/index", json.loads(raw), MANIFEST, b"{}", b"weights" * 1000)
    platforms = [("linux", "s390x"), ("linux", "mips64le")]
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [
            {**descriptor(MANIFEST, raw), "platform": {"os": os_, "architecture": architecture}}
            for os_, architecture in platforms
        ],
    }
    reference = put(registry.host, "m/index", document, INDEX)
    said = commands.fails("mount", reference, str(commands.mount_point))
    assert "linux/s390x" in said
    assert "linux/mips64le" in said


def test_a_model_without_files(commands: Commands, registry: Registry) -> None:
    reference = put(registry.host, "m/empty", model_of(), MANIFEST, b"{}")
    said = commands.fails("mount", reference, str(commands.mount_point))
    assert "no file" in said


def test_a_model_with_a_path_that_leads_out(commands: Commands, registry: Registry) -> None:
    data = b"x" * 100
    reference = put(
        registry.host, "m/evil", model_of(descriptor(RAW, data, "../../etc/cron.d/x")), MANIFEST,
        b"{}", data,
    )  # fmt: skip
    said = commands.fails("mount", reference, str(commands.mount_point))
    assert "layer 1 of 1" in said


def test_a_compressed_layer_that_is_none(commands: Commands, registry: Registry) -> None:
    data = b"\x1f\x8b" + bytes(100)
    media_type = "application/vnd.cncf.model.weight.v1.tar+gzip"
    reference = put(
        registry.host, "m/gz", model_of(descriptor(media_type, data, "w.safetensors")), MANIFEST,
        b"{}", data,
    )  # fmt: skip
    said = commands.fails("mount", reference, str(commands.mount_point))
    assert "layer 1 of 1" in said
    assert "malformed gzip" in said


def test_a_directory_that_does_not_exist(commands: Commands, model: str) -> None:
    assert "no such directory" in commands.fails("mount", model, "/nowhere/at/all", "-d")


def test_a_cache_that_cannot_be_written(commands: Commands, model: str) -> None:
    (commands.home / "file").write_text("")
    said = commands.fails(
        "mount", model, str(commands.mount_point), "--cache", str(commands.home / "file" / "x")
    )
    assert "cannot use the cache" in said


def test_no_fuse_device(commands: Commands, model: str) -> None:
    without = [
        "unshare", "--mount", "--propagation", "private", "sh", "-c",
        "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9"
        ' && exec "$@"', "sh",
    ]  # fmt: skip
    said = commands.fails("mount", model, str(commands.mount_point), through=without)
    assert "/dev/fuse" in said
    assert "modprobe fuse" in said
    said = commands.daemon_fails(through=without)
    assert "/dev/fuse" in said


def test_no_root(commands: Commands) -> None:
    # A user namespace without a mapping: every file stays readable, nobody is root.
    said = commands.daemon_fails(through=["unshare", "--user"])
    assert "must run as root" in said


def test_no_containerd(commands: Commands, model: str) -> None:
    said = commands.fails("pull", model, "--address", str(commands.home / "none.sock"))
    assert "none.sock" in said
    assert "is it running" in said


def test_no_daemon(commands: Commands) -> None:
    said = commands.fails("status", "--api", str(commands.home / "api.sock"))
    assert "is modelpack-snapshotter running" in said


def test_a_mirror_port_in_use(commands: Commands) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = commands.daemon_fails(f'[mirror]\naddress = "{address}"\n')
    assert address in said
    assert "[mirror] address" in said


def test_a_mirror_for_everybody(commands: Commands) -> None:
    said = commands.daemon_fails('[mirror]\naddress = "0.0.0.0:7670"\n')
    assert "not loopback" in said


def test_a_socket_in_use(commands: Commands) -> None:
    state = commands.home / "state"
    state.mkdir()
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(str(state / "api.sock"))
        taken.listen()
        said = commands.daemon_fails("[mirror]\nenabled = false\n")
    assert "api.sock is in use" in said


def test_a_root_that_cannot_be_written(commands: Commands) -> None:
    said = commands.daemon_fails('root = "/proc/nowhere"\n')
    assert "/proc/nowhere" in said
    assert "set root" in said


def test_an_unknown_configuration_key(commands: Commands) -> None:
    said = commands.daemon_fails("[fetch]\nconections = 4\n")
    assert "unknown key 'conections' in [fetch]; did you mean 'connections'?" in said


def test_a_value_out_of_range(commands: Commands) -> None:
    said = commands.daemon_fails("[fetch]\nconnections = 1\nreserved = 1\n")
    assert "reserved" in said


@pytest.mark.parametrize("reference", ["", "m/UPPER:1", "a b", "host:99999999/x", "x@sha256:12"])
def test_a_reference_that_is_none(commands: Commands, reference: str) -> None:
    assert "reference" in commands.fails("inspect", reference)


def test_a_directory_without_a_model(commands: Commands) -> None:
    assert "holds no" in commands.fails("build", str(commands.home), "-t", "localhost/x:1")


def test_a_push_of_what_was_not_built(commands: Commands) -> None:
    said = commands.fails("push", "localhost:1/x:1")
    assert "modelpack build" in said


def test_an_unmount_of_what_is_no_mount(commands: Commands) -> None:
    assert "no model is mounted there" in commands.fails("umount", str(commands.mount_point))
