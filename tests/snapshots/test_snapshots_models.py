"""Models among the snapshots; here a model is a plain directory."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from grpc import StatusCode
from snapshots_harness import MODEL, Client, Place, mounted, refused

from proto.containerd.services.snapshots.v1 import snapshots_pb2 as api
from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.marker import MARKER_LIMIT, MARKER_NAME, ModelRef, encode_marker
from snapshotter.artifact.selection import Selection
from snapshotter.errors import ModelpackError
from snapshotter.snapshots.idmap import GID_LABEL, UID_LABEL
from snapshotter.snapshots.snapshotter import MOUNTS_AT_ONCE

Build = Callable[..., str]

VOLUME = f"k8s.io/12/var/lib/containerd/state/image-volumes/1234/{digest_of(b'tiny')[7:]}"


def mark(directory: Path, ref: ModelRef = MODEL) -> None:
    (directory / MARKER_NAME).write_bytes(encode_marker(ref))


@pytest.fixture
def model(build: Build) -> str:
    return build("model", "", mark)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_commit_of_a_marker_mounts_nothing(model: str, client: Client, place: Place) -> None:
    assert client.stat(model).kind == api.COMMITTED
    assert place.models.mounted == []


def test_a_view_of_a_marker_shows_the_model(model: str, client: Client, place: Place) -> None:
    (mount,) = mounts = client.view("v", model)
    assert (mount.type, mount.source) == ("bind", str(place.models.directory))
    assert list(mount.options) == ["ro", "rbind", "nosuid", "nodev"]
    with mounted(mounts, place.work / "v") as directory:
        assert names(directory) == ["config.json"]
        with pytest.raises(OSError, match="Read-only"):
            (directory / "x").write_text("")
    assert (place.models.mounted, place.models.lowers) == ([MODEL], [])


def test_a_container_on_a_model_writes_beside_its_files(
    model: str, client: Client, place: Place
) -> None:
    with mounted(client.prepare("a", model), place.work / "a") as directory:
        assert names(directory) == ["config.json"]
        (directory / "log").write_text("x")
        (directory / "config.json").unlink()
    assert names(place.models.directory) == ["config.json"]
    assert place.models.lowers == [MODEL]
    client.commit("c", "a")
    with mounted(client.view("v", "c"), place.work / "v") as directory:
        assert names(directory) == ["log"]


def test_an_image_volume_of_a_model_is_bound_though_it_was_prepared(
    model: str, client: Client, place: Place
) -> None:
    (mount,) = client.prepare(VOLUME, model)
    assert (mount.type, mount.source) == ("bind", str(place.models.directory))
    assert list(mount.options) == ["ro", "rbind", "nosuid", "nodev"]
    assert list(client.mounts(VOLUME)) == [mount]


def test_the_volume_of_a_user_namespace_is_mapped_where_the_kernel_maps_fuse(
    model: str, client: Client, place: Place
) -> None:
    labels = {UID_LABEL: "0:1000:65536", GID_LABEL: "0:2000:65536"}
    (mount,) = client.prepare(VOLUME, model, labels)
    assert list(mount.options[:2]) == ["uidmap=0:1000:65536", "gidmap=0:2000:65536"]
    assert "ro" not in mount.options
    place.models.idmap = False
    (mount,) = client.mounts(VOLUME)
    assert list(mount.options) == ["ro", "rbind", "nosuid", "nodev"]


def test_layers_on_a_model_are_laid_over_its_files(
    model: str, client: Client, build: Build, place: Place
) -> None:
    build("c", model, lambda directory: (directory / "more").write_text("x"))
    with mounted(client.view("v", "c"), place.work / "v") as directory:
        assert names(directory) == ["config.json", "more"]
    with mounted(client.prepare(VOLUME, "c"), place.work / "p") as directory:
        assert names(directory) == ["config.json", "more"]


def test_127_layers_on_a_model_are_mounted(
    model: str, client: Client, build: Build, place: Place
) -> None:
    parent = model
    for number in range(127):
        parent = build(f"c{number}", parent)
    with mounted(client.prepare("a", parent), place.work / "a") as directory:
        assert names(directory) == ["config.json"]


def test_a_model_that_moved_is_found_in_its_new_place(
    model: str, client: Client, build: Build, place: Place
) -> None:
    build("c", model)
    client.view("v", "c")
    place.models.directory = place.models.directory.rename(place.models.root / "elsewhere")
    with mounted(client.mounts("v"), place.work / "v") as directory:
        assert names(directory) == ["config.json"]


@pytest.mark.parametrize("kind", ["prepare", "view"])
def test_a_volume_without_layers_shows_the_model_its_key_names(
    kind: str, client: Client, place: Place
) -> None:
    place.models.known[VOLUME] = MODEL
    (mount,) = getattr(client, kind)(VOLUME)
    assert (mount.type, mount.source) == ("bind", str(place.models.directory))
    assert client.stat(VOLUME).parent == ""
    assert client.usage(VOLUME).size == 0
    assert place.layers() == []
    with refused(StatusCode.FAILED_PRECONDITION):
        client.commit("c", VOLUME)
    client.remove(VOLUME)
    assert place.models.released == [MODEL]


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("prepare", VOLUME),
        ("view", VOLUME),
        ("view", "default/3//mnt"),
        ("prepare", "default/3//mnt"),
    ],
)
def test_nothing_is_never_shown_for_an_image(
    kind: str, key: str, client: Client, place: Place
) -> None:
    with refused(StatusCode.FAILED_PRECONDITION) as message:
        getattr(client, kind)(key)
    assert "modelpack pull" in message[0]
    assert client.walk() == []


def test_a_difference_to_nothing_can_be_taken(client: Client, place: Place) -> None:
    with mounted(client.view("default/3/-parent-view-x1"), place.work / "v") as directory:
        assert names(directory) == []


@pytest.mark.parametrize(
    ("temporary", "code"),
    [(False, StatusCode.FAILED_PRECONDITION), (True, StatusCode.UNAVAILABLE)],
)
def test_a_model_that_cannot_be_mounted_fails_the_call_and_leaves_nothing(
    temporary: bool, code: StatusCode, model: str, client: Client, place: Place
) -> None:
    error = ModelpackError("registry.example.com: 503; try again")
    error.temporary = temporary  # type: ignore[attr-defined]
    place.models.error = error
    for kind in ("prepare", "view"):
        with refused(code) as message:
            getattr(client, kind)("k", model)
        assert message == ["registry.example.com: 503; try again"]
    client.cleanup()
    assert client.walk() == [model]
    assert place.layers() == ["1"]
    place.models.error = None
    client.view("k", model)


def test_a_model_mount_that_ended_is_made_again(model: str, client: Client, place: Place) -> None:
    client.view("v", model)
    client.mounts("v")
    assert place.models.mounted == [MODEL, MODEL]


def test_a_model_is_released_with_its_last_snapshot(
    client: Client, build: Build, place: Place
) -> None:
    build("one", "", mark)
    build("two", "", mark)
    client.view("v", "one")
    client.remove("v")
    client.remove("one")
    assert place.models.released == []
    client.remove("two")
    assert place.models.released == [MODEL]


def test_the_same_model_of_another_registry_is_the_same_mount(
    client: Client, build: Build, place: Place
) -> None:
    other = ModelRef("mirror.example.com", "tiny", MODEL.digest)
    build("one", "", mark)
    build("two", "", lambda directory: mark(directory, other))
    client.remove("one")
    assert place.models.released == []
    client.remove("two")
    assert place.models.released == [other]


def test_another_choice_of_a_models_files_is_another_mount(
    client: Client, build: Build, place: Place
) -> None:
    chosen = replace(MODEL, selection=Selection(exclude=("*.bin",)))
    build("everything", "", mark)
    build("part", "", lambda directory: mark(directory, chosen))
    client.view("v", "part")
    assert place.models.mounted == [chosen]
    client.remove("v")
    client.remove("part")
    assert place.models.released == [chosen]
    client.remove("everything")
    assert place.models.released == [chosen, MODEL]


def test_a_marker_that_says_what_we_do_not_know_is_refused_and_not_half_believed(
    build: Build,
) -> None:
    def later(directory: Path) -> None:
        fields = json.loads(encode_marker(MODEL)) | {"hide": ["*.bin"]}
        (directory / MARKER_NAME).write_text(json.dumps(fields))

    with refused(StatusCode.FAILED_PRECONDITION) as message:
        build("later", "", later)
    assert "has unknown fields hide: upgrade modelpack-snapshotter" in message[0]


def test_a_volume_that_is_being_mounted_keeps_its_model(
    client: Client, build: Build, place: Place
) -> None:
    build("model", "", mark)
    place.models.known[VOLUME] = MODEL
    place.models.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.prepare, VOLUME)
        while VOLUME not in client.walk():
            pass
        client.remove("model")
        assert place.models.released == []
        place.models.gate.set()
        assert slow.result(30)
    client.remove(VOLUME)
    assert place.models.released == [MODEL]


def test_a_model_is_mounted_only_after_a_release_that_had_begun(
    client: Client, place: Place
) -> None:
    """Else the release takes away what was mounted, and containerd binds an empty directory."""
    place.models.known.update(old=MODEL, new=MODEL)
    client.view("old")
    place.models.mounted.clear()
    mounted_early: list[bool] = []

    def release(ref: ModelRef) -> None:
        coming.append(pool.submit(client.view, "new"))
        while "new" not in client.walk():
            pass
        mounted_early.append(wait_for(lambda: bool(place.models.mounted), seconds=0.3))

    coming: list[Future[object]] = []
    place.models.release = release  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        client.remove("old")
        coming[0].result(30)
    assert mounted_early == [False]
    assert place.models.mounted == [MODEL]


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_a_slow_mount_delays_nobody_else(model: str, client: Client, place: Place) -> None:
    place.models.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.view, "slow", model)
        client.prepare("a")
        client.commit("c", "a")
        client.remove("c")
        assert not slow.done()
        place.models.gate.set()
        slow.result(30)


def test_usage_of_a_model_is_its_marker_and_never_walks_the_model(
    model: str, client: Client, place: Place
) -> None:
    (place.models.directory / "huge").write_bytes(b"x" * 1_000_000)
    client.view("v", model)
    client.prepare("a", model)
    for key in (model, "v", "a"):
        assert client.usage(key).size < 20_000


def test_a_marker_that_cannot_be_read_fails_the_commit(client: Client, place: Place) -> None:
    with mounted(client.prepare("a"), place.work / "a") as directory:
        (directory / MARKER_NAME).write_text('{"format": 99}')
    with refused(StatusCode.FAILED_PRECONDITION) as message:
        client.commit("c", "a")
    assert "upgrade modelpack-snapshotter" in message[0]
    assert client.walk() == ["a"]


def beside_another_file(directory: Path) -> None:
    mark(directory)
    (directory / "x").write_text("")


def too_large(directory: Path) -> None:
    (directory / MARKER_NAME).write_bytes(b" " * (MARKER_LIMIT + 1))


def a_link_to_a_marker(directory: Path) -> None:
    outside = directory.parent / "marker"
    outside.write_bytes(encode_marker(MODEL))
    (directory / MARKER_NAME).symlink_to(outside)


def a_pipe(directory: Path) -> None:
    os.mkfifo(directory / MARKER_NAME)


def a_directory(directory: Path) -> None:
    (directory / MARKER_NAME).mkdir()


@pytest.mark.parametrize(
    "change", [beside_another_file, too_large, a_link_to_a_marker, a_pipe, a_directory]
)
def test_what_is_not_exactly_a_marker_is_an_ordinary_layer(
    change: Callable[[Path], None], client: Client, build: Build, place: Place
) -> None:
    build("c", "", change)
    with mounted(client.view("v", "c"), place.work / "v") as directory:
        assert MARKER_NAME in names(directory)
    assert place.models.mounted == []


def test_a_marker_in_a_layer_above_others_is_an_ordinary_file(
    client: Client, build: Build, place: Place
) -> None:
    build("c2", build("c1"), mark)
    with mounted(client.prepare("a"), place.work / "a") as directory:
        mark(directory)
    client.commit("c3", "a", parent="c1")
    for name in ("c2", "c3"):
        with mounted(client.view(f"v-{name}", name), place.work / name) as directory:
            assert names(directory) == [MARKER_NAME]
    assert place.models.mounted == []


def test_views_and_removals_at_once_never_release_a_model_in_use(
    client: Client, place: Place
) -> None:
    in_use = threading.Lock()
    using: set[int] = set()
    wrong: list[str] = []
    forget = place.models.release

    def release(ref: ModelRef) -> None:
        with in_use:
            if using:
                wrong.append(f"released while {len(using)} had it")
        forget(ref)

    place.models.release = release  # type: ignore[method-assign]
    for number in range(40):
        place.models.known[f"k{number}"] = MODEL

    def life(number: int) -> None:
        client.view(f"k{number}")
        with in_use:
            using.add(number)
        with in_use:
            using.discard(number)
        client.remove(f"k{number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(life, range(40)))
    assert wrong == []
    assert place.models.released


def test_a_failed_mount_is_told_though_its_snapshot_was_removed_meanwhile(
    client: Client, place: Place
) -> None:
    """A caller that gave up long ago is cleaned up after while its mount still waits."""
    place.models.known[VOLUME] = MODEL
    place.models.error = ModelpackError("registry.example.com: 503; try again")
    place.models.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(client.prepare, VOLUME)
        while VOLUME not in client.walk():
            pass
        client.remove(VOLUME)
        place.models.gate.set()
        with refused(StatusCode.FAILED_PRECONDITION) as message:
            slow.result(30)
    assert "503" in message[0]


def test_models_that_hang_leave_threads_for_everybody_else(client: Client, place: Place) -> None:
    keys = [f"default/{n}//mnt" for n in range(MOUNTS_AT_ONCE + 8)]
    place.models.known.update(dict.fromkeys(keys, MODEL))
    place.models.gate.clear()
    with ThreadPoolExecutor(len(keys)) as pool:
        calls = [pool.submit(client.view, key) for key in keys]
        try:
            refusals, _ = wait(calls, timeout=30, return_when=FIRST_COMPLETED)
            with refused(StatusCode.UNAVAILABLE) as message:
                refusals.pop().result()
            assert "try again" in message[0]
            client.prepare("a")
            client.remove("a")
        finally:
            place.models.gate.set()
    assert sum(call.exception() is None for call in calls) >= MOUNTS_AT_ONCE
