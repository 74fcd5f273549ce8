"""The whole examination: every part in turn, none of which can hold up the rest for long."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TypeVar

from snapshotter.config import Config
from snapshotter.doctor import (
    containerd,
    credentials,
    disk,
    docker,
    hosts,
    images,
    keeper,
    kernel,
    kubelet,
    namespaces,
    probe,
    registry,
    rules,
    samples,
    secret_sources,
    service,
)
from snapshotter.doctor.finding import Finding, unknown
from snapshotter.doctor.wanted import PART as CONTAINERD
from snapshotter.doctor.wanted import Wanted
from snapshotter.images.platform import host_platform
from snapshotter.sockets import listener_of

_SECONDS = 60.0
_T = TypeVar("_T")


def examine(config: Config, asked: str | None = None) -> Iterator[Finding]:
    """Look at this node, and at a reference or registry if ``asked``; findings as they are made."""
    cache = Path(config.root) / "cache"
    mirror = config.mirror.address if config.mirror.enabled else ""
    running = yield from _bounded(
        service.PART, lambda: service.gather(config.grpc_address, config.api_address, mirror)
    )
    daemon = running.pid if running else None
    yield from _part(kernel.PART, lambda: _kernel(config, daemon, cache))
    if running:
        yield from service.judge(running)
    yield from _part(keeper.PART, lambda: _keeper(config, running))
    facts = yield from _bounded(
        CONTAINERD, lambda: containerd.gather(Path(config.containerd.address))
    )
    files = yield from _bounded(hosts.PART, lambda: hosts.gather(_certs_d(config, facts)))
    direct = False
    if facts:
        wanted = Wanted(
            address=str(config.grpc_address),
            root=config.root,
            architecture=host_platform().architecture,
            pinned=config.mirror.pinned,
            mirrored=hosts.mirrored(files or [], mirror) if mirror else frozenset(),
        )
        yield from rules.judge(facts, wanted)
        direct = rules.direct(facts, wanted)
        yield from _part(namespaces.PART, lambda: _namespaces(config, daemon, facts.pid))
    if files is not None and mirror:
        example = samples.hosts_toml(config, "registry.example.com")
        yield from hosts.judge(files, mirror, needed=not direct, hosts_toml=example)
    if facts and not facts.failure:
        address = facts.address
        yield from _part(images.PART, lambda: images.judge(images.gather(address), direct=direct))
    yield from _part(docker.PART, lambda: docker.judge(_docker()))
    yield from _part(disk.PART, lambda: disk.judge(disk.gather(cache)))
    yield from _part(
        credentials.PART,
        lambda: (
            credentials.judge(credentials.gather(config.registry.docker_config))
            + secret_sources.judge(secret_sources.gather(config.registry))
        ),
    )
    socket = Path(config.cri.address or Path(config.state) / "cri.sock")
    yield from _part(
        kubelet.PART,
        lambda: kubelet.judge(kubelet.gather(), socket, enabled=config.cri.enabled),
    )
    if asked is not None:
        yield from _part(
            registry.PART,
            lambda: registry.judge(registry.gather(asked, config.registry, config.mirror.address)),
        )


def _kernel(config: Config, daemon: int | None, cache: Path) -> list[Finding]:
    facts = kernel.gather(daemon)
    found = kernel.judge(facts, max_read=config.mounts.max_read)
    tried = probe.gather(cache)
    return found + probe.judge(tried, release=facts.release, root=os.geteuid() == 0)


def _keeper(config: Config, running: service.DaemonFacts | None) -> list[Finding]:
    return keeper.judge(
        keeper.gather(
            config.keeper.enabled,
            config.keeper_address,
            runs=running is not None and running.status is not None,
            daemon=running.pid if running else None,
        )
    )


def _namespaces(config: Config, daemon: int | None, containerd_pid: int | None) -> list[Finding]:
    viewers = [("containerd", containerd_pid), ("dockerd", listener_of(docker.SOCKET))]
    state = Path(config.state).resolve()
    return namespaces.judge(namespaces.gather(daemon, viewers, state))


def _docker() -> docker.DockerFacts:
    return docker.gather(dockerd=listener_of(docker.SOCKET))


def _certs_d(config: Config, facts: containerd.ContainerdFacts | None) -> list[str]:
    """Where hosts.toml files may be: those we read, and those CRI reads."""
    theirs = facts.effective.config_path if facts and facts.effective else ""
    return list(dict.fromkeys([*config.registry.certs_d, *filter(None, theirs.split(":"))]))


def _part(part: str, look: Callable[[], list[Finding]]) -> Iterator[Finding]:
    found = yield from _bounded(part, look)
    yield from found or []


def _bounded(part: str, look: Callable[[], _T]) -> Generator[Finding, None, _T | None]:
    """What ``look`` returns; None, and a finding that says so, when it takes too long.

    Every probe has a time limit of its own. This is for what has none: a file system that
    hangs, for instance.
    """
    results: list[_T] = []
    broken: list[Exception] = []

    def work() -> None:
        try:
            results.append(look())
        except Exception as error:
            broken.append(error)

    thread = threading.Thread(target=work, name=f"doctor-{part}", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if results:
        return results[0]
    if isinstance(error := next(iter(broken), None), OSError):
        yield unknown(part, "looked-at", f"cannot be looked at: {error}")
    elif error is not None:
        raise error
    else:
        yield unknown(part, "looked-at", f"gave no answer in {_SECONDS:g} s")
    return None
