"""Docker, where there is one: does it keep its images in containerd, with this snapshotter?"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from snapshotter.doctor import namespaces
from snapshotter.doctor.finding import Change, Finding, error, ok, run, unknown, warning
from snapshotter.doctor.samples import NAME

PART = "docker"
CONFIG = Path("/etc/docker/daemon.json")
SOCKET = Path("/run/docker.sock")
_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ImageMount:
    """An image that a container has mounted."""

    container: str
    image: str
    source: str
    """Where dockerd mounted it, to bind it into the container from there."""
    target: str


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
    mounts: tuple[ImageMount, ...] = ()
    """Of all containers."""
    mounted: frozenset[str] | None = None
    """Mount points that dockerd sees; None: it may not be looked at."""


def gather(config: Path = CONFIG, socket: Path = SOCKET, dockerd: int | None = None) -> DockerFacts:
    """``dockerd``: its pid."""
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
    info = _asked(socket, "/info", {})
    view = namespaces.view("dockerd", dockerd)
    status = {str(row[0]): row[1] for row in info.get("DriverStatus") or [] if len(row) == 2}
    return DockerFacts(
        there,
        settings,
        failure,
        str(info.get("Driver", "")),
        status.get("driver-type") == "io.containerd.snapshotter.v1",
        tuple(_image_mounts(_asked(socket, "/containers/json?all=true", []))),
        frozenset(namespaces.mount_points(view.mountinfo)) if view is not None else None,
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
        right = ok(PART, "docker-store", f"docker's images are containerd's, with {NAME}")
        return [right, *_lost(facts)]
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


def _lost(facts: DockerFacts) -> list[Finding]:
    """dockerd does not mount images again when it was restarted, and says nothing of it."""
    if facts.mounted is None:
        return []
    lost = [mount for mount in facts.mounts if mount.source not in facts.mounted]
    return [
        error(
            PART,
            "docker-mounts",
            f"container {mount.container} has an empty directory for {mount.image} at "
            f"{mount.target}",
            "dockerd was restarted since the container was made, and mounts images only then",
            run(f"docker rm -f {mount.container}  # and make it again, with docker run as before"),
        )
        for mount in lost
    ]


def _image_mounts(containers: Any) -> Iterator[ImageMount]:
    for container in containers if isinstance(containers, list) else []:
        name = next(iter(container.get("Names") or []), container.get("Id", "")).lstrip("/")
        for mount in container.get("Mounts") or []:
            if mount.get("Type") == "image":
                image, source, target = (
                    str(mount.get(key, "")) for key in ("Name", "Source", "Destination")
                )
                yield ImageMount(name, image, source, target)


_Answer = TypeVar("_Answer", dict[str, Any], list[Any])


def _asked(socket: Path, path: str, default: _Answer) -> _Answer:
    """What dockerd answers; ``default`` when it does not, or something else."""
    if not socket.exists():
        return default
    transport = httpx.HTTPTransport(uds=str(socket))
    try:
        with httpx.Client(transport=transport, timeout=_SECONDS) as client:
            answer = client.get(f"http://docker{path}").raise_for_status().json()
    except (httpx.HTTPError, ValueError):
        return default
    return answer if isinstance(answer, type(default)) else default
