"""The daemon: does it run, may others open its sockets, does its mirror answer?"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from snapshotter.doctor.finding import Change, Finding, error, ok, run, unknown, warning
from snapshotter.doctor.samples import DAEMON_CONFIG
from snapshotter.sockets import listener_of

PART = "daemon"
_SECONDS = 5.0
_REGISTRY_HEADER = "docker-distribution-api-version"


@dataclass(frozen=True, slots=True)
class SocketFacts:
    path: Path
    mode: int | None
    """Permission bits; None: there is no socket, or this user may not see it."""
    hidden: bool = False
    """Whether permissions keep this user from looking."""


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """The daemon, as seen from outside."""

    pid: int | None
    """None: it does not run, or this user may not know."""
    status: dict[str, Any] | None
    """What it says of itself; None: it does not answer."""
    sockets: tuple[SocketFacts, ...] = ()
    mirror: str = ""
    """Its address; empty: not enabled."""
    mirror_failure: str = ""
    """Why the mirror does not answer; empty: it does."""
    models: tuple[Path, ...] = field(default=())
    """Directories of models that are mounted now."""


def gather(grpc: Path, api: Path, mirror: str) -> DaemonFacts:
    """``mirror``: its address, empty when it is not enabled."""
    status = _status(api)
    models = status.get("models", []) if status else []
    return DaemonFacts(
        pid=listener_of(grpc),
        status=status,
        sockets=tuple(map(_socket, dict.fromkeys((grpc, api)))),
        mirror=mirror,
        mirror_failure=_mirror(mirror) if mirror else "",
        models=tuple(Path(model["directory"]) for model in models),
    )


def judge(facts: DaemonFacts) -> list[Finding]:
    return [
        _running(facts),
        *(finding for socket in facts.sockets for finding in _guarded(socket)),
        *_mirrored(facts),
    ]


def _running(facts: DaemonFacts) -> Finding:
    if facts.status is not None:
        version, count = facts.status.get("version"), len(facts.models)
        return ok(
            PART,
            "daemon-runs",
            f"modelpack-snapshotter {version} runs and has {count} model{'s' * (count != 1)} "
            "mounted",
        )
    if any(socket.hidden for socket in facts.sockets):
        return unknown(PART, "daemon-runs", "only root may ask the daemon")
    where = ", ".join(str(socket.path) for socket in facts.sockets)
    return error(
        PART,
        "daemon-runs",
        f"the daemon does not answer on {where}",
        "no model is mounted, and readers of those that were wait; a containerd that starts "
        "meanwhile may forget CRI's images",
        run(
            "systemctl enable --now modelpack-snapshotter",
            "journalctl -u modelpack-snapshotter",
        ),
    )


def _guarded(socket: SocketFacts) -> list[Finding]:
    if socket.mode is None:
        return []
    if socket.mode & 0o022:
        return [
            error(
                PART,
                "socket-mode",
                f"{socket.path} has mode {socket.mode:04o}: others may open it",
                "whoever opens it can have directories mounted as root",
                run(f"chmod 600 {socket.path}"),
            )
        ]
    return [ok(PART, "socket-mode", f"{socket.path} has mode {socket.mode:04o}")]


def _mirrored(facts: DaemonFacts) -> list[Finding]:
    if not facts.mirror:
        return [
            warning(
                PART,
                "mirror",
                "the mirror endpoint is switched off",
                "tags of models pulled by ctr, nerdctl and docker, and by pods before containerd "
                "2.1, are downloaded as a whole",
                Change(DAEMON_CONFIG, "[mirror]\nenabled = true\n"),
            )
        ]
    if facts.mirror_failure:
        return [
            error(
                PART,
                "mirror",
                f"the mirror does not answer on {facts.mirror}: {facts.mirror_failure}",
                "tags of models are then downloaded as a whole by clients that ask it",
                run(
                    "systemctl restart modelpack-snapshotter",
                    f"ss -ltnp 'sport = {facts.mirror.rpartition(':')[2]}'",
                ),
            )
        ]
    return [ok(PART, "mirror", f"the mirror answers on {facts.mirror}")]


def _status(api: Path) -> dict[str, Any] | None:
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(api)), timeout=_SECONDS) as client:
            answer = client.get("http://daemon/v1/status").raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return None
    return answer if isinstance(answer, dict) else None


def _socket(path: Path) -> SocketFacts:
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return SocketFacts(path, None, hidden=True)
    except OSError:
        return SocketFacts(path, None)
    return SocketFacts(path, stat.S_IMODE(mode) if stat.S_ISSOCK(mode) else None)


def _mirror(address: str) -> str:
    try:
        # Loopback: no proxy has anything to do with it.
        with httpx.Client(timeout=_SECONDS, trust_env=False) as client:
            answer = client.get(f"http://{address}/v2/")
    except (httpx.HTTPError, httpx.InvalidURL) as broken:
        return str(broken) or type(broken).__name__
    if answer.status_code != 200 or _REGISTRY_HEADER not in answer.headers:
        return f"somebody else listens there, who answered {answer.status_code}"
    return ""
