"""What people read and copy models with: the commands of docs/commands.md, as they stand there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from integration.harness.containerd import Containerd
from integration.harness.machine import CommandError, Machine
from integration.harness.model import write_model
from integration.harness.page_commands import commands, run_page
from integration.harness.registry import Registry
from integration.harness.snapshotter import PROGRAMS, Snapshotter
from integration.models import push_model
from integration.test_cri_pods import eventually
from snapshotter.artifact.digest import digest_of
from snapshotter.cache.held import map_of

MODELPACK = str(PROGRAMS / "modelpack")
NOBODY = 65534
FROM_HERE = "modelpack extract registry"


def layout_of(directory: Path, registry: Registry, tag: str) -> None:
    """What `oras copy --to-oci-layout` leaves of the repository: its blobs, listed by tag."""
    (directory / "blobs" / "sha256").mkdir(parents=True)
    storage = registry.storage / "docker" / "registry" / "v2"
    for data in storage.glob("blobs/sha256/*/*/data"):
        (directory / "blobs" / "sha256" / data.parent.name).write_bytes(data.read_bytes())
    (link,) = storage.glob(f"repositories/models/qwen3/_manifests/tags/{tag}/current/link")
    named = link.read_text()
    raw = (directory / "blobs" / "sha256" / named.partition(":")[2]).read_bytes()
    entry = {
        "mediaType": json.loads(raw)["mediaType"],
        "digest": named,
        "size": len(raw),
        "annotations": {"org.opencontainers.image.ref.name": tag},
    }
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


class Person:
    """Somebody with a home, on a machine without a daemon."""

    def __init__(self, machine: Machine, registry: Registry) -> None:
        self.machine, self.registry = machine, registry
        self.home = machine.directory("person")
        self.source = self.home / "Qwen3-8B"
        write_model(self.source, 4 << 20)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": str(self.home),
            "DOCKER_CONFIG": str(self.home),
            "PATH": f"{PROGRAMS}:{os.environ['PATH']}",
        }
        self.exchanged = {
            "registry.example.com": registry.host,
            "./": f"{self.home}/",
            "/mnt/qwen3": str(self.home / "mnt"),
            " model.safetensors": " model-00001-of-00004.safetensors",
        }
        (self.home / "mnt").mkdir()

    def line(self, command: str) -> str:
        for theirs, ours in self.exchanged.items():
            command = command.replace(theirs, ours)
        return command

    def verified(self) -> bool:
        """Whether all of the model is in the cache of `modelpack mount`, and known to be right."""
        (cache,) = (self.home / ".cache" / "modelpack").iterdir()
        digests = [digest_of(path.read_bytes()) for path in self.source.iterdir()]
        maps = [map_of(cache / "blobs", digest) for digest in digests]
        return all(found is not None and found.verified for found in maps)

    def same_as_source(self, directory: str) -> bool:
        found = subprocess.run(
            ["diff", "-r", str(self.source), str(self.home / directory)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert found.stdout == ""
        return found.returncode == 0


def test_the_commands_of_the_page_do_what_it_says(machine: Machine, registry: Registry) -> None:
    person = Person(machine, registry)

    def after() -> None:
        if not (person.home / "qwen3-layout").exists() and (person.home / "qwen3").exists():
            layout_of(person.home / "qwen3-layout", registry, "8b")

    def leave_out(command: str) -> bool:
        if command == "modelpack ls":  # what was read is verified in the next lull
            eventually(person.verified, "all of the model is verified")
        return command.startswith(FROM_HERE)

    printed = run_page(
        "commands.md",
        machine,
        environment=person.environment,
        exchanged=person.exchanged,
        restart=lambda _: pytest.fail("nothing is to be restarted"),
        leave_out=leave_out,
        after=after,
    )
    shown = {command: text for command, text in printed.items() if "tree" in command}
    assert all("config.json" in text for text in shown.values())
    assert any("of-00004.safetensors" not in text for text in shown.values())
    assert "F16" in printed["modelpack inspect --tensors registry.example.com/models/qwen3:8b"]
    (read,) = [text for command, text in printed.items() if command.endswith(" config.json")]
    assert read == (person.source / "config.json").read_text()
    assert "(100%)" in printed["modelpack ls"]
    assert person.same_as_source("qwen3")
    assert person.same_as_source("qwen3-extracted")
    small = {path.name for path in (person.home / "small").iterdir()}
    assert small == {path.name for path in person.source.glob("*.json")}
    registry.stop()  # what was mounted and read is here
    (command,) = [one for one in commands("commands.md") if one.startswith(FROM_HERE)]
    machine.run(["sh", "-ec", person.line(command)], environment=person.environment)
    assert person.same_as_source("qwen3-from-here")


def test_a_user_who_is_not_root_reads_and_copies(machine: Machine, registry: Registry) -> None:
    machine.root.chmod(0o755)
    person = Person(machine, registry)
    reference = f"{registry.host}/models/qwen3:8b"
    for line in ("build ./Qwen3-8B -t", "push"):
        machine.run(
            ["sh", "-ec", person.line(f"modelpack {line} {reference}")],
            environment=person.environment,
        )
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(person.home)], check=True)
    as_user = [
        *("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"),
        # This repository may lie where only root can read.
        *("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"),
    ]

    def as_them(*arguments: str) -> str:
        argv = [*as_user, MODELPACK, *arguments]
        return machine.run(argv, environment=person.environment).stdout

    assert "weight.config" in as_them("inspect", reference)
    assert as_them("cat", reference, "config.json") == (person.source / "config.json").read_text()
    # A second time over files that only they may write, and not even they without a rename.
    for _ in range(2):
        as_them("fetch", reference, "-o", str(person.home / "out"))
        assert person.same_as_source("out")
    (person.home / "out" / "config.json").unlink()
    (person.home / "out" / "config.json").write_text("{}")
    with pytest.raises(CommandError, match="--force"):
        as_them("fetch", reference, "-o", str(person.home / "out"))
    as_them("fetch", reference, "-o", str(person.home / "out"), "--force")
    assert person.same_as_source("out")
    assert "no model" in as_them("ls")


def test_a_full_disk_is_an_error_and_once_there_is_room_it_goes_on(
    machine: Machine, registry: Registry
) -> None:
    person = Person(machine, registry)
    reference = f"{registry.host}/models/qwen3:8b"
    for line in (f"build ./Qwen3-8B --tar -t {reference}", f"push {reference}"):
        machine.run(["sh", "-ec", person.line(f"modelpack {line}")], environment=person.environment)
    small = person.home / "small"
    small.mkdir()
    machine.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(small)])
    for size, why in (("1m", "make room"), ("5m", "No space|make room")):
        machine.run(["mount", "-o", f"remount,size={size}", str(small)])
        with pytest.raises(CommandError, match=why):
            machine.run(
                [MODELPACK, "fetch", reference, "-o", str(small / "out")],
                environment=person.environment,
            )
    machine.run(["mount", "-o", "remount,size=40m", str(small)])
    machine.run(
        [MODELPACK, "fetch", reference, "-o", str(small / "out")], environment=person.environment
    )
    machine.run(["diff", "-r", str(person.source), str(small / "out")])


def test_ls_shows_what_the_daemon_serves_and_has_served(
    machine: Machine,
    snapshotter: Snapshotter,
    newest_containerd: Containerd,
    registry: Registry,
) -> None:
    model = push_model(snapshotter, registry)
    name, _, digest = model.digest.partition("@")
    assert json.loads(snapshotter.modelpack("ls", "--json")) == {"models": []}
    snapshotter.modelpack("pull", "--as", "stub", model.tag)
    target = str(machine.directory("mounted"))
    newest_containerd.ctr("images", "mount", "--snapshotter", "modelpack", model.tag, target)
    machine.run(["sh", "-c", f"cat {target}/*.safetensors > /dev/null"])

    def listed() -> dict[str, object]:
        (found,) = json.loads(snapshotter.modelpack("ls", "--json"))["models"]
        return dict(found)

    deadline = time.monotonic() + 60
    while listed()["present_bytes"] != listed()["size_bytes"]:
        assert time.monotonic() < deadline, listed()
        time.sleep(0.2)
    found = listed()
    assert (found["names"], found["digest"]) == ([name], digest)
    assert target in str(found["mounted"])
    assert "(100%)" in snapshotter.modelpack("inspect", model.tag)
    assert name in snapshotter.modelpack("ls")
    # A blob counts as whole once it was verified, which is soon.
    registry.stop()
    while True:
        try:
            snapshotter.modelpack("extract", name, "-o", str(machine.root / "extracted"))
            break
        except CommandError:
            assert time.monotonic() < deadline + 90
            time.sleep(0.5)
    machine.run(["diff", "-r", str(model.source), str(machine.root / "extracted")])
    newest_containerd.ctr("images", "unmount", "--snapshotter", "modelpack", target)
    snapshotter.stop()
    assert listed()["present_bytes"] == found["size_bytes"]
