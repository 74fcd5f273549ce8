"""Runs a program as systemd would by its unit, as far as that can be done without systemd.

``python -m integration.harness.sandbox UNIT PROGRAM...`` applies to itself what the unit's
[Service] says of capabilities, privileges, system calls, address families, executable memory,
file modes and limits, and becomes the program. System calls are filtered by seccomp, as systemd
does it; which calls a group such as ``@system-service`` has is asked of systemd-analyze.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38  # linux/prctl.h
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000  # seccomp.h: SCMP_ACT_*
_EQUAL, _MASKED_EQUAL = 4, 7
_CAPABILITIES = [
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID",
    "SETPCAP", "LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW",
    "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT",
    "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD",
    "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
    "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE",
]  # fmt: skip
"""By their numbers, linux/capability.h."""
_LIBC = ctypes.CDLL(None, use_errno=True)


class Unit:
    """The [Service] section of a unit file."""

    def __init__(self, file: Path) -> None:
        self._settings: dict[str, list[str]] = {}
        section = ""
        for line in file.read_text().splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and line and not line.startswith(("#", ";")):
                name, _, value = line.partition("=")
                self._settings.setdefault(name, []).append(value)

    def __contains__(self, name: str) -> bool:
        return name in self._settings

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._settings)

    def all(self, name: str) -> list[str]:
        """Every assignment, in order."""
        return self._settings.get(name, [])

    def words(self, name: str) -> list[str]:
        return " ".join(self.all(name)).split()

    def on(self, name: str) -> bool:
        return self.all(name)[-1:] == ["yes"]


def may_raise_limits() -> bool:
    """CAP_SYS_RESOURCE, which systemd has, and root in a container may lack."""
    (line,) = (
        line
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("CapEff:")
    )
    return bool(int(line.split()[1], 16) & 1 << _CAPABILITIES.index("SYS_RESOURCE"))


def become(unit: Unit, argv: Sequence[str]) -> None:
    """Apply all of it, in the order in which systemd does, and execute."""
    os.umask(int(unit.all("UMask")[-1], 8))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(int(unit.all("LimitNOFILE")[-1]), most)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    if may_raise_limits():
        ceiling = 20 - int(unit.all("LimitNICE")[-1]) if unit.all("LimitNICE") else 0
        resource.setrlimit(resource.RLIMIT_NICE, (ceiling, ceiling))  # as getrlimit(2) counts it
    kept = {word.removeprefix("CAP_") for word in unit.words("CapabilityBoundingSet")}
    for number, name in enumerate(_CAPABILITIES):
        if name not in kept:
            _prctl(_PR_CAPBSET_DROP, number)
    if unit.on("NoNewPrivileges"):
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _filter(unit)
    os.execv(argv[0], list(argv))


class _Compare(ctypes.Structure):
    """``struct scmp_arg_cmp``."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("a", ctypes.c_uint64),
        ("b", ctypes.c_uint64),
    )


def _filter(unit: Unit) -> None:
    """Load a filter that allows what the unit does and answers EPERM to all else."""
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(_ERRNO | errno.EPERM))

    def allow(name: str, *compared: _Compare) -> None:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return  # one of another architecture
        array = (_Compare * len(compared))(*compared)
        failed = library.seccomp_rule_add_array(context, _ALLOW, number, len(compared), array)
        if failed:
            raise OSError(-failed, f"seccomp rule for {name}")

    families = [int(getattr(socket, word)) for word in unit.words("RestrictAddressFamilies")]
    for name in allowed_calls(unit.all("SystemCallFilter")):
        if name == "socket" and families:
            for family in families:
                allow(name, _Compare(0, _EQUAL, family, 0))
        elif name in ("mmap", "mprotect", "pkey_mprotect") and unit.on("MemoryDenyWriteExecute"):
            for protection in _protections(name):
                both = mmap.PROT_WRITE | mmap.PROT_EXEC
                mask = both if name == "mmap" else mmap.PROT_EXEC
                allow(name, _Compare(2, _MASKED_EQUAL, mask, protection))
        else:
            allow(name)
    # What our own execution needs, which systemd allows too.
    for name in ("execve", "brk", "exit_group", "rt_sigreturn"):
        allow(name)
    failed = library.seccomp_load(context)
    if failed:
        raise OSError(-failed, "seccomp_load")


def _protections(name: str) -> Iterable[int]:
    """Memory is writable or executable when it is mapped, and never made executable."""
    return (0, mmap.PROT_WRITE, mmap.PROT_EXEC) if name == "mmap" else (0,)


def allowed_calls(filters: Iterable[str]) -> set[str]:
    """The system calls that ``SystemCallFilter=`` lines allow, of which the first is a list of
    what is allowed."""
    allowed: set[str] = set()
    for line in filters:
        denies = line.startswith("~")
        for word in line.removeprefix("~").split():
            calls = _group(word) if word.startswith("@") else {word}
            allowed = allowed - calls if denies else allowed | calls
    return allowed | _group("@default")


@cache
def _group(name: str) -> frozenset[str]:
    said = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], capture_output=True, text=True, check=True
    ).stdout
    words = [line.strip() for line in said.splitlines()[1:] if not line.strip().startswith("#")]
    calls = {word for word in words if word and not word.startswith("@")}
    return frozenset(calls.union(*(_group(word) for word in words if word.startswith("@"))))


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, value, 0, 0, 0) and ctypes.get_errno() != errno.EINVAL:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


if __name__ == "__main__":
    become(Unit(Path(sys.argv[1])), sys.argv[2:])
