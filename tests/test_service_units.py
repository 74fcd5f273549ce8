"""The systemd units: sandboxed as far as mounts allow, and never further."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from integration.harness.sandbox import Unit, allowed_calls

UNITS = Path(__file__).parents[1] / "config" / "containerd"
DAEMON, KEEPER = "modelpack-snapshotter.service", "modelpack-keeper.service"
MOUNT_NAMESPACE = {
    # systemd.exec(5), and exec_needs_mount_namespace() of systemd's src/core/exec-invoke.c
    "BindPaths", "BindReadOnlyPaths", "DynamicUser", "ExecPaths", "ExtensionDirectories",
    "ExtensionImages", "ImportCredential", "InaccessiblePaths", "IPCNamespacePath",
    "LoadCredential", "LoadCredentialEncrypted", "LogNamespace", "MountAPIVFS", "MountFlags",
    "MountImages", "NetworkNamespacePath", "NoExecPaths", "PrivateDevices", "PrivateIPC",
    "PrivateMounts", "PrivateNetwork", "PrivateTmp", "PrivateUsers", "ProcSubset", "ProtectClock",
    "ProtectControlGroups", "ProtectHome", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables", "ProtectProc", "ProtectSystem", "ReadOnlyPaths", "ReadWritePaths",
    "RootDirectory", "RootImage", "SetCredential", "TemporaryFileSystem",
}  # fmt: skip
"""Settings with which a service has, or may have, mounts of its own."""


@pytest.mark.parametrize("name", [DAEMON, KEEPER])
def test_no_setting_gives_a_mount_namespace(name: str) -> None:
    assert not Unit(UNITS / name).names & MOUNT_NAMESPACE


@pytest.mark.parametrize(("name", "exposure"), [(DAEMON, 50), (KEEPER, 30)])
def test_systemd_understands_the_unit_and_finds_it_no_more_exposed_than_it_was(
    tmp_path: Path, name: str, exposure: int
) -> None:
    """``exposure`` is ten times what `systemd-analyze security` says."""
    for unit in UNITS.glob("*.service"):
        text = unit.read_text().replace("/usr/local/bin/modelpack-", "/bin/true modelpack-")
        (tmp_path / unit.name).write_text(text.replace("-+/sbin/modprobe", "-+/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name], capture_output=True, text=True, check=True
    )
    assert name not in verified.stderr
    subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={exposure}",
         tmp_path / name],
        check=True, capture_output=True,
    )  # fmt: skip


def test_the_keeper_may_do_next_to_nothing() -> None:
    unit = Unit(UNITS / KEEPER)
    assert unit.words("CapabilityBoundingSet") == []
    assert unit.words("RestrictAddressFamilies") == ["AF_UNIX"]
    calls = allowed_calls(unit.all("SystemCallFilter"))
    assert {"recvmsg", "sendmsg", "close"} <= calls
    assert not calls & {"mount", "umount2", "ptrace", "init_module", "bpf", "setns", "chroot"}


def test_the_daemon_may_mount_and_nothing_else_that_others_may_not() -> None:
    calls = allowed_calls(Unit(UNITS / DAEMON).all("SystemCallFilter"))
    assert {"mount", "umount2", "ioctl", "splice", "memfd_create"} <= calls
    assert not calls & {
        "ptrace", "init_module", "finit_module", "bpf", "chroot", "pivot_root", "kexec_load",
        "reboot", "swapon", "clock_settime", "perf_event_open", "process_vm_readv", "open_tree",
        "userfaultfd", "iopl", "sethostname", "setns", "unshare",
    }  # fmt: skip


@pytest.mark.parametrize("name", [DAEMON, KEEPER])
def test_it_is_killed_last_and_started_again(name: str) -> None:
    unit = Unit(UNITS / name)
    assert int(unit.all("OOMScoreAdjust")[-1]) <= -999
    assert unit.all("Restart") == ["always"]


@pytest.mark.parametrize("name", [DAEMON, KEEPER])
def test_its_directories_are_roots_alone(name: str) -> None:
    unit = Unit(UNITS / name)
    assert unit.all("RuntimeDirectoryMode") == ["0700"]
    assert unit.all("StateDirectoryMode") in ([], ["0700"])
    assert unit.all("UMask") == ["0077"]
