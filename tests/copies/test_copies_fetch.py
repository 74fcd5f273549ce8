"""`modelpack fetch` and `extract`: what is put where, and what ends in an error instead."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from copies_models import Cli, push, push_producer
from producers import (
    CNCF,
    FILEPATH,
    MODEL_CONFIG,
    OCI_MANIFEST,
    PRODUCERS,
    Artifact,
    Producer,
    Pushed,
    described,
    digest,
    encoded,
    tar,
)
from registry_process import RegistryProcess

from snapshotter.bench.children.forwarder import Forwarder

_BIG = random.Random(7).randbytes(6 << 20)
_SECOND = random.Random(8).randbytes(5 << 20)


def model() -> Artifact:
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.raw", _BIG, {FILEPATH: "sub/a.safetensors"})
    artifact.add(
        f"{CNCF}weight.v1.tar", tar({"b.safetensors": _SECOND}), {FILEPATH: "x/b.safetensors"}
    )
    artifact.add(f"{CNCF}doc.v1.raw", b"read me", {FILEPATH: "README.md"})
    bundle = tar({"config.json": b"{}", "tokenizer/tokenizer.json": b"[]"})
    artifact.add(
        f"{CNCF}weight.config.v1.tar+gzip", encoded(bundle, "tar+gzip"), {FILEPATH: "config"}
    )
    return artifact


FILES = {
    "sub/a.safetensors": _BIG,
    "x/b.safetensors": _SECOND,
    "README.md": b"read me",
    "config.json": b"{}",
    "tokenizer/tokenizer.json": b"[]",
}


@pytest.fixture
def reference(docker_registry: RegistryProcess) -> str:
    return push(docker_registry, "fetch/model", model().pushed())


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture
def counted(docker_registry: RegistryProcess) -> Iterator[Forwarder]:
    host, port = docker_registry.address.split(":")
    forwarder = Forwarder((host, int(port)), 0.0)
    yield forwarder
    forwarder.close()


def files_in(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_all_files_come_and_nothing_else_is_left(cli: Cli, reference: str, target: Path) -> None:
    shown = cli("fetch", reference, "-o", str(target)).stdout
    assert "5 files" in shown
    assert files_in(target) == FILES
    assert sorted(path.name for path in target.iterdir()) == [
        "README.md", "config.json", "sub", "tokenizer", "x",
    ]  # fmt: skip


def test_only_what_is_chosen_is_fetched(
    cli: Cli, reference: str, target: Path, counted: Forwarder
) -> None:
    through = reference.replace(reference.partition("/")[0], counted.address)
    cli("fetch", through, "-o", str(target), "-p", "*.json", "-p", "*.md", "--exclude", "tok*")
    assert files_in(target).keys() == {"config.json", "README.md"}
    assert counted.answered_bytes < 1 << 20
    cli("fetch", through, "-o", str(target), "--category", "weight", "--exclude", "/sub/")
    assert files_in(target).keys() == {"config.json", "README.md", "x/b.safetensors"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["-p", "*.gguf"], "nothing matches '*.gguf'"),
        (["-p", "["], "has no ]"),
        (["--exclude", "*"], "no file of the model is chosen"),
    ],
)
def test_nothing_chosen_is_an_error(
    cli: Cli, reference: str, target: Path, arguments: list[str], why: str
) -> None:
    failed = cli("fetch", reference, "-o", str(target), *arguments, fails=True)
    assert failed.exit_code != 0
    assert why in failed.output + str(failed.exception)


def test_a_pattern_that_matches_nothing_is_told(cli: Cli, reference: str, target: Path) -> None:
    told = cli("fetch", reference, "-o", str(target), "-p", "*.md", "-p", "*.jsn").stderr
    assert "no file matches '*.jsn'" in told
    assert "*.md" not in told


def test_files_that_are_there_and_right_are_kept(
    cli: Cli, reference: str, target: Path, counted: Forwarder
) -> None:
    cli("fetch", reference, "-o", str(target))
    (target / "x" / "b.safetensors").unlink()
    before = (target / "sub" / "a.safetensors").stat()
    through = reference.replace(reference.partition("/")[0], counted.address)
    told = json.loads(cli("fetch", through, "-o", str(target), "--json").stdout)
    states = {file["path"]: file["state"] for file in told["files"]}
    assert states.pop("x/b.safetensors") == "written"
    assert set(states.values()) == {"kept"}
    assert (target / "sub" / "a.safetensors").stat().st_ino == before.st_ino
    assert len(_SECOND) <= told["fetched_bytes"] < len(_SECOND) + (1 << 20)
    assert counted.answered_bytes < len(_SECOND) + (1 << 20)


@pytest.mark.parametrize("path", FILES)
@pytest.mark.parametrize("same_size", [False, True])
def test_a_file_with_other_content_is_replaced_only_by_force(
    cli: Cli, reference: str, target: Path, path: str, same_size: bool
) -> None:
    other = bytes(len(FILES[path])) if same_size else b"something else"
    (target / path).parent.mkdir(parents=True)
    (target / path).write_bytes(other)
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert "--force" in str(failed.exception)
    assert (target / path).read_bytes() == other
    cli("fetch", reference, "-o", str(target), "--force")
    assert files_in(target) == FILES


def test_nothing_is_written_through_a_symbolic_link(
    cli: Cli, reference: str, target: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    victim = outside / "victim"
    victim.write_bytes(b"mine")
    target.mkdir()
    for planted, to in (("sub", outside), ("README.md", victim), (".modelpack-fetch", outside)):
        (target / planted).symlink_to(to)
        for arguments in ([], ["--force"]):
            failed = cli("fetch", reference, "-o", str(target), *arguments, fails=True)
            assert failed.exit_code != 0
            assert planted in str(failed.exception)
        assert {path.name for path in outside.iterdir()} == {"victim"}
        assert victim.read_bytes() == b"mine"
        (target / planted).unlink()
        shutil.rmtree(target / ".modelpack-fetch", ignore_errors=True)
    cli("fetch", reference, "-o", str(target))


def test_a_directory_in_the_place_of_a_file_is_an_error(
    cli: Cli, reference: str, target: Path
) -> None:
    (target / "README.md").mkdir(parents=True)
    failed = cli("fetch", reference, "-o", str(target), "--force", fails=True)
    assert "no regular file" in str(failed.exception)


def test_a_model_with_files_where_ours_lie_is_refused(
    cli: Cli, docker_registry: RegistryProcess, target: Path
) -> None:
    artifact = Artifact(b"{}", MODEL_CONFIG).add(
        f"{CNCF}doc.v1.raw", b"x", {FILEPATH: ".modelpack-fetch/x"}
    )
    reference = push(docker_registry, "fetch/reserved", artifact.pushed())
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert "refused" in str(failed.exception)


@pytest.mark.parametrize("encoding", ["raw", "tar", "tar+gzip", "tar+zstd"])
def test_of_wrong_bytes_nothing_is_put_in_place(
    cli: Cli, docker_registry: RegistryProcess, target: Path, encoding: str
) -> None:
    data = random.Random(encoding).randbytes(2 << 20)
    blob = data if encoding == "raw" else encoded(tar({"a.bin": data}), encoding)
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.{encoding}", blob, {FILEPATH: "a.bin"})
    reference = push(docker_registry, f"bad/{encoding.replace('+', '-')}", artifact.pushed())
    stored = _stored(docker_registry, digest(blob))
    stored.write_bytes(blob[: 1 << 20] + b"?" + blob[(1 << 20) + 1 :])
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert failed.exit_code == 3, failed.output
    assert "wrong bytes" in failed.output
    assert not (target / "a.bin").exists()
    stored.write_bytes(blob)
    cli("fetch", reference, "-o", str(target))
    assert files_in(target) == {"a.bin": data}


def test_a_broken_stream_is_fetched_anew_the_next_time(
    cli: Cli, docker_registry: RegistryProcess, target: Path
) -> None:
    data = b"compressible " * 200_000
    blob = encoded(tar({"a.bin": data}), "tar+gzip")
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}weight.v1.tar+gzip", blob, {FILEPATH: "."})
    reference = push(docker_registry, "bad/broken", artifact.pushed())
    stored = _stored(docker_registry, digest(blob))
    stored.write_bytes(blob[:2000] + b"????????" + blob[2008:])
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert failed.exit_code in (1, 3)
    stored.write_bytes(blob)
    cli("fetch", reference, "-o", str(target))
    assert files_in(target) == {"a.bin": data}


def test_a_blob_that_the_registry_lost_is_an_error_and_the_rest_is_kept(
    cli: Cli, docker_registry: RegistryProcess, target: Path
) -> None:
    data = random.Random("lost").randbytes(1 << 20)
    artifact = Artifact(b"{}", MODEL_CONFIG)
    artifact.add(f"{CNCF}doc.v1.raw", b"there", {FILEPATH: "README.md"})
    artifact.add(f"{CNCF}weight.v1.raw", data, {FILEPATH: "a.bin"})
    reference = push(docker_registry, "fetch/lost", artifact.pushed())
    stored = _stored(docker_registry, digest(data))
    stored.rename(stored.with_name("away"))
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert "404" in str(failed.exception) or "has no blob" in str(failed.exception)
    stored.with_name("away").rename(stored)
    cli("fetch", reference, "-o", str(target))
    assert files_in(target) == {"README.md": b"there", "a.bin": data}


def _stored(registry: RegistryProcess, blob: str) -> Path:
    hexadecimal = blob.partition(":")[2]
    place = f"docker/registry/v2/blobs/sha256/{hexadecimal[:2]}/{hexadecimal}/data"
    return registry.storage / place


def test_links_of_a_model_come_only_where_they_are_allowed(
    cli: Cli, docker_registry: RegistryProcess, target: Path, tmp_path: Path
) -> None:
    link, hard = tarfile.TarInfo("sub/link"), tarfile.TarInfo("hard")
    link.type, link.linkname = tarfile.SYMTYPE, "../a.bin"
    hard.type, hard.linkname = tarfile.LNKTYPE, "a.bin"
    packed = tar({"a.bin": b"data", "sub/link": link, "hard": hard})
    artifact = Artifact(b"{}", MODEL_CONFIG).add(f"{CNCF}weight.v1.tar", packed, {FILEPATH: "."})
    reference = push(docker_registry, "fetch/links", artifact.pushed())
    failed = cli("fetch", reference, "-o", str(target), fails=True)
    assert "allow_links" in str(failed.exception)
    allowing = tmp_path / "allowing.toml"
    allowing.write_text(
        f'root = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n'
        "[registry]\ncerts_d = []\n[mounts]\nallow_links = true\n"
    )
    for _ in range(2):
        cli("--config", str(allowing), "fetch", reference, "-o", str(target))
        assert str((target / "sub" / "link").readlink()) == "../a.bin"
        assert files_in(target) == {"a.bin": b"data", "hard": b"data", "sub/link": b"data"}
    assert "sub/link -> " not in cli("--config", str(allowing), "tree", reference).stdout
    assert "link -> ../a.bin" in cli("--config", str(allowing), "tree", reference).stdout


def test_a_platform_is_chosen_from_an_index(
    cli: Cli, docker_registry: RegistryProcess, target: Path
) -> None:
    producer = next(one for one in PRODUCERS if one.name == "aikit-platforms")
    reference = push_producer(docker_registry, producer)
    cli("fetch", reference, "-o", str(target), "--platform", "linux/arm64")
    assert (target / "tokenizer" / "tokenizer.json").read_bytes() == b"arm64"
    failed = cli("fetch", reference, "-o", str(target), "--platform", "linux/s390x", fails=True)
    assert "it has linux/amd64, linux/arm64" in str(failed.exception)
    failed = cli("fetch", reference, "-o", str(target), "--platform", "linux", fails=True)
    assert failed.exit_code == 2


# Interrupted


_SLOWLY = """
from snapshotter.registry.limits import Limiter

delay, taken = Limiter.delay, 0

def held(self, count):
    global taken
    taken += count
    return delay(self, count) if taken < 8 << 20 else 3600.0

Limiter.delay = held
from snapshotter.cli.main import main
main()
"""


@pytest.fixture
def slowly(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """`modelpack fetch` as a process, which takes some seconds for the model, and never gets
    more than 8 MiB of it."""
    config = tmp_path / "slow.toml"
    config.write_text(
        f'root = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n[registry]\ncerts_d = []\n'
        '[registry.limits._default]\nbytes_per_second = "3MiB"\n'
    )

    def start(*arguments: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", _SLOWLY, "--config", str(config)]
        return subprocess.Popen(
            [*program, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "HOME": str(tmp_path / "home")},
        )

    return start


def _wait_for(directory: Path, count: int) -> None:
    """Until so many bytes of blobs are durable in the work directory below ``directory``."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ranges = 0
        for path in directory.glob(".modelpack-fetch/*/blobs/*/*/map"):
            try:
                known = json.loads(path.read_bytes().partition(b"\n")[2])
            except (OSError, ValueError):
                continue
            ranges += sum(end - start for start, end in known["ranges"])
        if ranges >= count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{count} bytes did not become durable")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_goes_on_where_it_was(
    cli: Cli,
    reference: str,
    target: Path,
    slowly: Callable[..., subprocess.Popen[str]],
    number: signal.Signals,
) -> None:
    process = slowly("fetch", reference, "-o", str(target))
    try:
        _wait_for(target, 3 << 20)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command goes on" in said
    assert files_in(target).get("sub/a.safetensors", _BIG) == _BIG  # all of it, or nothing
    told = json.loads(cli("fetch", reference, "-o", str(target), "--json").stdout)
    total = len(_BIG) + len(_SECOND)
    assert told["fetched_bytes"] <= total - (2 << 20)
    assert files_in(target) == FILES


def test_killed_again_and_again_it_comes_to_its_end(
    cli: Cli,
    reference: str,
    target: Path,
    slowly: Callable[..., subprocess.Popen[str]],
) -> None:
    wait = random.Random(3)
    for _ in range(6):
        process = slowly("fetch", reference, "-o", str(target))
        try:
            process.wait(timeout=0.5 + 2 * wait.random())
        except subprocess.TimeoutExpired:
            pass
        process.kill()
        process.communicate()
        found = {path: data for path, data in files_in(target).items() if not path.startswith(".")}
        assert found.items() <= FILES.items()
    cli("fetch", reference, "-o", str(target))
    assert files_in(target) == FILES


def test_two_at_once_into_one_directory_are_refused(
    cli: Cli,
    reference: str,
    target: Path,
    slowly: Callable[..., subprocess.Popen[str]],
) -> None:
    process = slowly("fetch", reference, "-o", str(target))
    try:
        _wait_for(target, 1)
        failed = cli("fetch", reference, "-o", str(target), fails=True)
        assert "another process" in str(failed.exception)
    finally:
        process.kill()
        process.communicate()


# From this machine


def layout_of(directory: Path, pushed: Pushed, *tags: str) -> Path:
    """An OCI image layout, as oras and skopeo write it."""
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    for data in (*pushed.blobs, *(raw for _, raw in pushed.manifests)):
        (blobs / digest(data).partition(":")[2]).write_bytes(data)
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    media_type, last = pushed.manifests[-1]
    entries = [
        described(media_type, last, annotations={"org.opencontainers.image.ref.name": tag})
        for tag in tags
    ]
    index = {"schemaVersion": 2, "manifests": entries or [described(media_type, last)]}
    (directory / "index.json").write_text(json.dumps(index))
    return directory


@pytest.mark.parametrize("producer", PRODUCERS, ids=lambda producer: producer.name)
def test_every_producers_model_is_extracted_from_a_layout(
    cli: Cli, tmp_path: Path, target: Path, producer: Producer
) -> None:
    layout = layout_of(tmp_path / "layout", producer.make())
    platform = ["--platform", "linux/amd64"] if producer.name == "aikit-platforms" else []
    cli("extract", str(layout), "-o", str(target), *platform)
    assert files_in(target) == {path: shown.data for path, shown in producer.shows.items()}


def test_a_model_of_a_layout_is_named_by_tag_or_digest(
    cli: Cli, tmp_path: Path, target: Path
) -> None:
    layout = layout_of(tmp_path / "layout", model().pushed(), "8b")
    named = digest(model().manifest())
    for source in (f"{layout}:8b", f"{layout}@{named}"):
        cli("extract", source, "-o", str(target))
        assert files_in(target) == FILES
    failed = cli("extract", f"{layout}:4b", "-o", str(target), fails=True)
    assert "it has 8b" in str(failed.exception)
    failed = cli("extract", f"{tmp_path}", "-o", str(target), fails=True)
    assert "no OCI image layout" in str(failed.exception)
    one, other = described(OCI_MANIFEST, b"1"), described(OCI_MANIFEST, b"2")
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [one, other]}))
    failed = cli("extract", str(layout), "-o", str(target), fails=True)
    assert "name one" in str(failed.exception)


def test_a_damaged_layout_is_found_out(cli: Cli, tmp_path: Path, target: Path) -> None:
    layout = layout_of(tmp_path / "layout", model().pushed())
    blob = layout / "blobs" / "sha256" / digest(_BIG).partition(":")[2]
    blob.write_bytes(b"?" + _BIG[1:])
    assert cli("extract", str(layout), "-o", str(target), fails=True).exit_code == 3
    blob.write_bytes(_BIG[:100])
    assert cli("extract", str(layout), "-o", str(target), fails=True).exit_code != 0
    blob.unlink()
    assert cli("extract", str(layout), "-o", str(target), fails=True).exit_code != 0
    assert not (target / "sub" / "a.safetensors").exists()


def test_a_producers_fetch_and_extract_are_the_same_for_all(
    cli: Cli, docker_registry: RegistryProcess, tmp_path: Path
) -> None:
    producer = next(one for one in PRODUCERS if one.name == "modctl")
    reference = push_producer(docker_registry, producer)
    layout = layout_of(tmp_path / "layout", producer.make())
    cli("fetch", reference, "-o", str(tmp_path / "fetched"))
    cli("extract", str(layout), "-o", str(tmp_path / "extracted"))
    assert files_in(tmp_path / "fetched") == files_in(tmp_path / "extracted")
