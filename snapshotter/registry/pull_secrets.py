"""Pull secrets that clients handed over with a pull, by repository.

Kubelet gives containerd the secret of a pod with PullImage, and forgets it. Bytes of a model are
read much later. So the newest secret with which a pull of a model went well is kept here, for as
long as this process lives; and, where the state directory is a tmpfs (as /run is, and as kubelet
keeps Secrets), in a file there for the process after it. Never on a disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from snapshotter.registry.credentials import Credential, Lookup, decode_entry
from snapshotter.registry.secrets import remember

log = structlog.get_logger(__name__)

LIMIT = 1024
"""Repositories whose secret is kept; the one not renewed for longest makes room."""
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class PullSecret:
    """A credential as it came with a pull."""

    credential: Credential = field(repr=False)
    server: str = ""
    """The only host (``host[:port]``) it is for; empty: any host of the registry, its mirrors
    too, as containerd has it."""


class PullSecrets:
    """Thread-safe."""

    def __init__(self, file: Path | None = None, *, limit: int = LIMIT) -> None:
        """``file`` is used only where its directory, which must exist, is in memory."""
        self._lock = threading.Lock()
        self._limit = limit
        self._kept: OrderedDict[tuple[str, str], PullSecret] = OrderedDict()
        self._file = file if file is not None and _in_memory(file.parent) else None
        if self._file is not None:
            self._kept.update(_load(self._file))
            for secret in self._kept.values():
                _guard(secret)

    def keep(self, registry: str, repository: str, secret: PullSecret) -> None:
        """The newest for ``repository``. What was known before is no longer used."""
        _guard(secret)
        with self._lock:
            same = self._kept.pop((registry, repository), None) == secret
            self._kept[registry, repository] = secret
            while len(self._kept) > self._limit:
                self._kept.popitem(last=False)
            if not same:
                self._store()
        if not same:
            log.info("pull secret kept for reading", repository=f"{registry}/{repository}")

    def has(self, registry: str, repository: str) -> bool:
        with self._lock:
            return (registry, repository) in self._kept

    def find(self, registry: str, repository: str, address: str) -> list[Lookup]:
        """What may be sent to the host at ``address`` of ``registry``."""
        with self._lock:
            secret = self._kept.get((registry, repository))
        if secret is None or (secret.server and secret.server != address):
            return []
        return [Lookup(secret.credential, f"pull secret given for {registry}/{repository}")]

    def _store(self) -> None:
        if self._file is None:
            return
        rows = [
            [registry, repository, s.credential.username, s.credential.password,
             s.credential.identity_token, s.server]
            for (registry, repository), s in self._kept.items()
        ]  # fmt: skip
        temporary = self._file.with_name(f"{self._file.name}.new")
        try:
            temporary.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(temporary, flags, 0o600), "w") as stream:
                json.dump(rows, stream)
            temporary.replace(self._file)
        except OSError as error:
            log.warning("pull secrets are in memory only", error=error.strerror)


def parse_auth(
    username: str, password: str, auth: str, identity_token: str, server_address: str
) -> PullSecret | None:
    """A CRI ``AuthConfig``, read as containerd reads it; None when it says nothing."""
    if username:
        credential: Credential | None = Credential(username, password)
    elif identity_token:
        credential = Credential("", identity_token=identity_token)
    else:
        credential = decode_entry({"auth": auth}) if auth else None
    if credential is None:
        return None
    server = server_address.partition("://")[2] or server_address
    return PullSecret(credential, server.partition("/")[0])


def _guard(secret: PullSecret) -> None:
    known = secret.credential
    remember(known.password, known.identity_token, known.basic.partition(" ")[2])


def _in_memory(directory: Path) -> bool:
    """Whether the file system of ``directory`` is one without a disk, as mountinfo says."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        device = directory.stat().st_dev
        wanted = f"{os.major(device)}:{os.minor(device)}"
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            fields, _, rest = line.partition(" - ")
            if fields.split()[2] == wanted:
                return rest.split()[0] in _IN_MEMORY
    return False


def _load(file: Path) -> dict[tuple[str, str], PullSecret]:
    try:
        with open(os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW), "rb") as stream:
            state = os.fstat(stream.fileno())
            if state.st_uid != os.geteuid() or state.st_mode & 0o077:
                raise ValueError("others could have written or read it")
            rows = msgspec.json.decode(
                stream.read(), type=list[tuple[str, str, str, str, str, str]]
            )
        return {
            (registry, repository): PullSecret(Credential(user, password, token), server)
            for registry, repository, user, password, token, server in rows
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        log.warning(
            "pull secrets of an earlier life ignored", file=str(file), error=type(error).__name__
        )
        return {}
