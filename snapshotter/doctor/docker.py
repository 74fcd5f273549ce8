"""Docker, where there is one: does it keep its images in containerd, with this snapshotter?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from snapshotter.doctor.finding import Change, Finding, ok, run, unknown, warning
from snapshotter.doctor.samples import NAME

PART = "docker"
CONFIG = Path("/etc/docker/daemon.json")
SOCKET = Path("/run/docker.sock")
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class DockerFacts:
    there: bool
    config: Mapping[str, Any] | None
    """daemon.json; None: it cannot be used, see ``config_failure``."""
    config_failure: str = ""
    driver: str = ""
    """The storage driver that runs; empty: dockerd does not answer."""
    containerd: bool = False
    """Whether what runs is a snapshotter of containerd."""


def gather(config: Path = CONFIG, socket: Path = SOCKET) -> DockerFacts:
    there = config.exists() or socket.exists() or shutil.which("dockerd") is not None
    settings: Mapping[str, Any] | None = {}
    failure = ""
    try:
        document = json.loads(config.read_text())
        settings = document if isinstance(document, dict) else None
        failure = "" if settings is not None else "expected a JSON object"
    except FileNotFoundError:
        pass
    except OSError as refused:
        settings, failure = None, refused.strerror or "cannot be read"
    except ValueError as broken:
        settings, failure = None, f"not JSON: {broken}"
    info = _info(socket) if socket.exists() else {}
    status = {str(row[0]): row[1] for row in info.get("DriverStatus") or [] if len(row) == 2}
    return DockerFacts(
        there,
        settings,
        failure,
        str(info.get("Driver", "")),
        status.get("driver-type") == "io.containerd.snapshotter.v1",
    )


def judge(facts: DockerFacts) -> list[Finding]:
    if not facts.there:
        return []
    if facts.config is None:
        return [unknown(PART, "docker-config", f"{CONFIG} cannot be used: {facts.config_failure}")]
    wanted = {"features": {"containerd-snapshotter": True}, "storage-driver": NAME}
    change = Change(str(CONFIG), json.dumps(wanted, indent=2) + "\n")
    restart = run("systemctl restart docker")
    why = "docker downloads models as a whole and mounts nothing; other clients are not concerned"
    features = facts.config.get("features")
    store = isinstance(features, dict) and features.get("containerd-snapshotter") is True
    if facts.containerd and facts.driver == NAME:
        return [ok(PART, "docker-store", f"docker's images are containerd's, with {NAME}")]
    if store and facts.config.get("storage-driver") == NAME:
        if not facts.driver:
            return [ok(PART, "docker-store", f"{CONFIG} has docker use {NAME}; it does not run")]
        what = f"dockerd runs with {facts.driver}, though {CONFIG} says {NAME}"
        return [warning(PART, "docker-store", what, why, restart)]
    missing = [] if store else ["the containerd-snapshotter feature"]
    if facts.config.get("storage-driver") != NAME:
        missing.append(f'"storage-driver": "{NAME}"')
    what = f"{CONFIG} lacks {' and '.join(missing)}"
    return [warning(PART, "docker-store", what, why, change, restart)]


def _info(socket: Path) -> dict[str, Any]:
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, timeout=_SECONDS) as client:
            answer = client.get("http://docker/info").raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return {}
    return answer if isinstance(answer, dict) else {}
