"""Kernel, mounts, disk, docker, credentials, hosts.toml: facts, and what they mean."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_facts import names

from snapshotter.config import Config
from snapshotter.doctor import credentials, disk, docker, hosts, kernel, namespaces, probe, service
from snapshotter.doctor.finding import Finding, Level
from snapshotter.doctor.images import Downloaded, ImageFacts
from snapshotter.doctor.images import judge as judge_images
from snapshotter.doctor.samples import hosts_toml

MIRROR = "127.0.0.1:7670"
KERNEL = kernel.KernelFacts(
    "6.12.1-amd64",
    True,
    {"default_request_timeout": 0, "max_pages_limit": 256},
    7,
    1 << 21,
    1 << 20,
)


def judge_kernel(**changes: object) -> set[str]:
    facts = replace(KERNEL, **changes)  # type: ignore[arg-type]
    return names(kernel.judge(facts, max_read=1 << 20), Level.WARNING, Level.ERROR)


def test_a_new_kernel_is_in_order() -> None:
    assert judge_kernel() == set()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"release": "5.10.0"}, "kernel-version"),
        ({"release": "6.1.0-13-amd64"}, "kernel-version"),
        ({"fuse_device": False}, "fuse-device"),
        ({"sysctls": {"max_request_timeout": 30}}, "fuse-request-timeout"),
        ({"sysctls": {"max_pages_limit": 32}}, "fuse-max-pages"),
        ({"capabilities": 0}, "cap-sys-admin"),
        ({"open_files": 1024}, "open-files"),
    ],
)
def test_what_the_kernel_lacks_is_found(changes: dict[str, object], name: str) -> None:
    assert judge_kernel(**changes) == {name}


def test_a_user_without_capabilities_is_told_to_be_root_not_that_the_node_is_broken() -> None:
    assert judge_kernel(daemon=None, capabilities=0) == set()


def test_a_tiny_mount_shows_what_kernel_and_disk_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 60.0)
    facts = probe.gather(tmp_path / "cache")
    assert facts.failure == ""
    assert facts.read
    assert names(probe.judge(facts, release="6.1.0", root=True), Level.ERROR) == set()
    assert "modelpack-doctor" not in Path("/proc/self/mountinfo").read_text()
    assert list(tmp_path.iterdir()) == []


def test_missing_passthrough_is_a_warning_where_the_kernel_should_have_it() -> None:
    lacking = probe.ProbeFacts(read=True, resend=True)
    assert names(probe.judge(lacking, release="6.9.0", root=True), Level.WARNING) == {"passthrough"}
    assert names(probe.judge(lacking, release="6.1.0", root=True), Level.WARNING) == set()
    overlay = replace(lacking, passthrough=True, backing="/x lies on overlayfs")
    assert names(probe.judge(overlay, release="6.9.0", root=True), Level.WARNING) == {"passthrough"}


def test_missing_idmap_is_a_warning_where_the_kernel_should_have_it() -> None:
    lacking = probe.ProbeFacts(read=True, resend=True, passthrough=True)
    assert names(probe.judge(lacking, release="6.12.0", root=True), Level.WARNING) == {"idmap"}
    assert "idmap" in names(probe.judge(lacking, release="6.11.0", root=True), Level.OK)


def test_a_mount_that_fails_is_an_error_for_root_only() -> None:
    failed = probe.ProbeFacts(failure="not permitted")
    assert names(probe.judge(failed, release="6.9.0", root=True), Level.ERROR) == {"fuse-mount"}
    assert names(probe.judge(failed, release="6.9.0", root=False), Level.UNKNOWN) == {"fuse-mount"}


MOUNTINFO = """\
22 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 0:30 / /run rw shared:5 - tmpfs tmpfs rw
31 22 0:31 / /var/my\\040disk rw shared:6 - overlay overlay rw
32 30 0:99 / /run/modelpack-snapshotter/mounts/a rw shared:7 - fuse.modelpack m ro
"""
STATE = Path("/run/modelpack-snapshotter")


def views(theirs: str, namespace: str = "mnt:[2]") -> list[Finding]:
    daemon = namespaces.View("the daemon", "mnt:[1]", MOUNTINFO)
    viewer = namespaces.View("containerd", namespace, theirs)
    return namespaces.judge(namespaces.NamespaceFacts(daemon, (viewer,), STATE))


def test_one_mount_namespace_is_in_order() -> None:
    assert names(views("", "mnt:[1]"), Level.OK) == {"mounts-visible"}


def test_a_containerd_that_misses_a_mount_shows_empty_directories() -> None:
    without = "\n".join(MOUNTINFO.splitlines()[:-1])
    assert names(views(without), Level.ERROR) == {"mounts-visible"}
    assert names(views(MOUNTINFO), Level.OK) == {"mounts-visible"}


@pytest.mark.parametrize(
    ("theirs", "level"),
    [
        ("30 22 0:30 / /run rw master:5 - tmpfs tmpfs rw", Level.OK),
        ("30 22 0:30 / /run rw - tmpfs tmpfs rw", Level.ERROR),
        ("30 22 0:30 / /run rw shared:9 - tmpfs tmpfs rw", Level.ERROR),
    ],
)
def test_before_a_model_is_mounted_propagation_tells(theirs: str, level: Level) -> None:
    empty = "\n".join(MOUNTINFO.splitlines()[:-1])
    daemon = namespaces.View("the daemon", "mnt:[1]", empty)
    viewer = namespaces.View("containerd", "mnt:[2]", theirs)
    (found,) = namespaces.judge(namespaces.NamespaceFacts(daemon, (viewer,), STATE))
    assert found.level is level


def test_the_disk_of_the_cache_is_the_deepest_mount() -> None:
    assert disk.fstype_of(MOUNTINFO, Path("/var/lib/x")) == "ext4"
    assert disk.fstype_of(MOUNTINFO, Path("/run/x")) == "tmpfs"
    assert disk.fstype_of(MOUNTINFO, Path("/var/my disk/x")) == "overlay"


@pytest.mark.parametrize(
    ("fstype", "free", "expected"),
    [
        ("ext4", 1 << 40, set()),
        ("overlay", 1 << 40, {"cache-disk"}),
        ("tmpfs", 1 << 40, {"cache-disk"}),
        ("nfs4", 1 << 30, {"cache-disk", "cache-space"}),
    ],
)
def test_a_disk_that_is_small_slow_or_no_disk_is_warned_of(
    fstype: str, free: int, expected: set[str]
) -> None:
    facts = disk.DiskFacts(Path("/cache"), fstype, read_only=False, free=free)
    assert names(disk.judge(facts), Level.WARNING) == expected


def test_docker_without_containerds_images_is_told_the_lines(tmp_path: Path) -> None:
    config = tmp_path / "daemon.json"
    config.write_text('{"features": {"buildkit": true}}')
    (found,) = docker.judge(docker.gather(config, tmp_path / "docker.sock"))
    assert found.level is Level.WARNING
    config.write_text(found.changes[0].text)
    (found,) = docker.judge(docker.gather(config, tmp_path / "docker.sock"))
    assert found.level is Level.OK


def test_a_docker_that_runs_otherwise_than_configured_is_found() -> None:
    configured = {"features": {"containerd-snapshotter": True}, "storage-driver": "modelpack"}
    (found,) = docker.judge(docker.DockerFacts(True, configured, driver="overlay2"))
    assert found.level is Level.WARNING
    assert "overlay2" in found.what
    (found,) = docker.judge(docker.DockerFacts(True, {}, driver="modelpack", containerd=True))
    assert found.level is Level.OK
    assert docker.judge(docker.DockerFacts(False, {})) == []


def test_an_image_that_docker_no_longer_mounts_in_its_container_is_found() -> None:
    mount = docker.ImageMount("server", "r.example/m:1", "/var/lib/docker/rootfs/x/a b", "/models")
    facts = docker.DockerFacts(True, {}, driver="modelpack", containerd=True, mounts=(mount,))
    point = "40 22 0:31 / /var/lib/docker/rootfs/x/a\\040b rw - overlay overlay rw"
    for mountinfo, expected in ((MOUNTINFO, {"docker-mounts"}), (point, set())):
        mounted = frozenset(namespaces.mount_points(mountinfo))
        found = docker.judge(replace(facts, mounted=mounted))
        assert names(found, Level.ERROR) == expected
    assert names(docker.judge(facts), Level.ERROR) == set()  # dockerd may not be looked at


def test_credentials_are_described_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    secret = "dXNlcjpodW50ZXIy"
    file.write_text(
        json.dumps(
            {
                "auths": {"r.example": {"auth": secret}, "empty.example": {}},
                "credHelpers": {"h.example": "is-not-there"},
            }
        )
    )
    file.chmod(0o644)
    facts = credentials.gather(str(file))
    findings = credentials.judge(facts)
    assert secret not in repr((facts, findings))
    assert names(findings, Level.WARNING) == {"credentials", "credential-helper"}
    file.chmod(0o600)
    findings = credentials.judge(credentials.gather(str(file)))
    assert names(findings, Level.WARNING) == {"credential-helper"}


def test_a_broken_config_json_is_not_quoted(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"auths": {"r.example": {"auth": "c2VjcmV0')
    (found,) = credentials.judge(credentials.gather(str(file)))
    assert found.level is Level.WARNING
    assert "c2VjcmV0" not in repr(found)


def judge_hosts(tmp_path: Path, text: str, *, needed: bool = False) -> list[Finding]:
    directory = tmp_path / "certs.d" / "r.example"
    directory.mkdir(parents=True)
    (directory / "hosts.toml").write_text(text)
    files = hosts.gather([str(tmp_path / "certs.d"), str(tmp_path / "none")])
    return hosts.judge(files, MIRROR, needed=needed, hosts_toml="")


def test_a_hosts_file_as_we_print_it_is_in_order(tmp_path: Path) -> None:
    findings = judge_hosts(tmp_path, hosts_toml(Config(), "r.example"))
    assert names(findings, Level.WARNING, Level.ERROR) == set()
    files = hosts.gather([str(tmp_path / "certs.d")])
    assert hosts.mirrored(files, MIRROR) == {str(tmp_path / "certs.d")}


@pytest.mark.parametrize(
    "text",
    [
        "server = [",
        f'[host."https://{MIRROR}"]\n',
        f'[host."http://{MIRROR}"]\ncapabilities = ["pull"]\n',
    ],
)
def test_a_hosts_file_that_keeps_the_mirror_from_models_is_an_error(
    tmp_path: Path, text: str
) -> None:
    assert names(judge_hosts(tmp_path, text), Level.ERROR) == {"hosts-file"}


def test_no_hosts_file_is_an_error_only_where_pods_need_one(tmp_path: Path) -> None:
    other = '[host."http://mirror.example"]\n'
    assert names(judge_hosts(tmp_path / "a", other, needed=True), Level.ERROR) == {"hosts-file"}
    assert names(judge_hosts(tmp_path / "b", other), Level.WARNING) == {"hosts-file"}


def test_somebody_else_on_the_mirrors_port_is_not_taken_for_it() -> None:
    facts = service.DaemonFacts(
        1, {"version": "1"}, mirror=MIRROR, mirror_failure="somebody else listens there"
    )
    assert names(service.judge(facts), Level.ERROR) == {"mirror"}


def test_what_only_root_may_see_is_not_held_against_a_node(tmp_path: Path) -> None:
    hidden = service.SocketFacts(tmp_path / "api.sock", None, hidden=True)
    facts = service.DaemonFacts(None, None, (hidden,))
    assert names(service.judge(facts), Level.ERROR) == set()


@pytest.mark.parametrize(("direct", "level"), [(True, Level.WARNING), (False, Level.ERROR)])
def test_a_model_downloaded_as_a_whole_is_found(direct: bool, level: Level) -> None:
    facts = ImageFacts(1, (Downloaded("k8s.io", ("sha256:0", "r.example/m:1"), 1 << 30),))
    (found,) = judge_images(facts, direct=direct)
    assert found.level is level
    assert "r.example/m:1" in found.what
    assert "1.0 GiB" in found.what
    assert "images rm --sync sha256:0 r.example/m:1" in found.changes[0].text
