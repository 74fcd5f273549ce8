"""A registry, or a model in it: is it reached, over TLS, and does it serve ranges?"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace

import msgspec

from snapshotter.doctor.finding import Finding, error, ok, run, unknown, warning
from snapshotter.errors import ModelpackError
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.control import Control
from snapshotter.registry.credentials import login_name
from snapshotter.registry.errors import NoRanges, RegistryError, Unauthorized
from snapshotter.registry.hosts import Host, address_of, find_hosts, is_loopback
from snapshotter.registry.keyring import NodeKeyring
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.reference import Reference
from snapshotter.units import Seconds, format_size

PART = "registry"
_SECONDS = 8.0
_SAMPLE = 64
_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One of the hosts that serve a registry."""

    url: str
    status: int = 0
    """What it answered to ``GET /v2/``; 0: nothing."""
    failure: str = ""
    """Why it did not answer."""


@dataclass(frozen=True, slots=True)
class RegistryFacts:
    """What became of asking."""

    asked: str
    """As the user wrote it."""
    hosts: tuple[HostFacts, ...] = ()
    """In the order they are tried."""
    credentials: str = ""
    """Where credentials were looked for, never a secret."""
    failure: str = ""
    """Why the model is not to be had."""
    refused: bool = False
    """Whether that is for want of credentials."""
    model: str = ""
    """Of a reference: the model's digest."""
    size: int = 0
    """Of its blobs, bytes."""
    ranges: bool | None = None
    """Whether a range came when one was asked for; None: none was."""


def gather(asked: str, options: RegistryOptions, mirror: str) -> RegistryFacts:
    """``asked`` is a reference or a registry's host alone. Each answer takes some seconds at most.

    ``mirror``: its address, which is not asked.
    """
    options = msgspec.structs.replace(
        options,
        connect_timeout=Seconds(min(options.connect_timeout, _SECONDS)),
        read_timeout=Seconds(min(options.read_timeout, _SECONDS)),
        answer_timeout=Seconds(min(options.answer_timeout, _SECONDS)),
    )
    host_only = "/" not in asked
    try:
        reference = Reference.parse(f"{asked}/a:a" if host_only else asked)
        hosts = find_hosts(
            reference.registry,
            certs_d=options.certs_d,
            plain_http=options.plain_http,
            skip=(mirror,),
        )
        facts = RegistryFacts(asked, tuple(_greet(host, options) for host in hosts))
        if hosts:
            found = NodeKeyring(options).find(hosts[-1], reference.repository)
            facts = replace(facts, credentials=found[0].story)
    except ModelpackError as broken:
        return RegistryFacts(asked, failure=str(broken))
    if host_only or not any(host.status for host in facts.hosts):
        return facts
    with closing(Registry(options, skip_hosts=(mirror,))) as registry:
        return _read(facts, reference, registry)


def _greet(host: Host, options: RegistryOptions) -> HostFacts:
    with closing(Control(options)) as control:
        try:
            answer = control.send(
                "GET",
                f"{host.url}/",
                asked="its API",
                headers=dict(host.headers),
                tls=host.tls,
                identify=True,
                limit=_LIMIT,
            )
        except RegistryError as broken:
            return HostFacts(host.url, broken.status or 0, str(broken))
    return HostFacts(host.url, answer.status)


def _read(facts: RegistryFacts, reference: Reference, registry: Registry) -> RegistryFacts:
    try:
        model, manifest = resolve_model(reference, registry)
        size = sum({layer.digest: layer.size for layer in manifest.layers}.values())
        facts = replace(facts, model=str(model.digest), size=size)
        largest = max(manifest.layers, key=lambda layer: layer.size, default=None)
        if largest is None or largest.size < 3:
            return facts
        origin = registry.origin(reference.registry, reference.repository, largest)
        end = min(largest.size - 1, 1 + _SAMPLE)
        with origin.open(1, end) as body:
            body.readinto(memoryview(bytearray(end - 1)))
    except NoRanges as broken:
        return replace(facts, ranges=False, failure=str(broken))
    except ModelpackError as broken:
        refused = isinstance(broken, Unauthorized)
        return replace(facts, failure=str(broken), refused=refused)
    return replace(facts, ranges=True)


def judge(facts: RegistryFacts) -> list[Finding]:
    found = [_host(host) for host in facts.hosts]
    if not facts.hosts and not facts.failure:
        return [unknown(PART, "registry-reached", f"{facts.asked} is the daemon's own mirror")]
    if facts.hosts and not any(host.status for host in facts.hosts):
        return found
    if facts.refused:
        host = address_of(facts.hosts[-1].url) if facts.hosts else facts.asked
        found.append(
            error(
                PART,
                "registry-credentials",
                facts.failure,
                f"the daemon reads models with its own credentials: {facts.credentials}",
                run(f"docker login {login_name(host)}  # as root"),
            )
        )
    elif facts.ranges is False:
        found.append(
            error(
                PART,
                "ranges",
                facts.failure,
                "every read of a model needs ranges",
                run("# put no proxy in between that strips Range, or use another registry"),
            )
        )
    elif facts.failure:
        found.append(
            error(
                PART,
                "registry-model",
                f"{facts.asked}: {facts.failure}",
                "it cannot be mounted",
                run(f"modelpack inspect {facts.asked}"),
            )
        )
    elif facts.model:
        size = format_size(facts.size)
        found.append(ok(PART, "registry-model", f"{facts.asked} is a model of {size}"))
        if facts.ranges:
            found.append(ok(PART, "ranges", "its blobs are served in ranges"))
    elif facts.hosts:
        found.append(
            unknown(
                PART,
                "ranges",
                "ranges were not tried: name a model, as in `modelpack doctor "
                f"{facts.asked}/NAME:TAG`",
            )
        )
    return found


def _host(host: HostFacts) -> Finding:
    name = address_of(host.url)
    if not host.status:
        return error(
            PART,
            "registry-reached",
            host.failure,
            "models of it cannot be read",
            run(f"curl -v {host.url}/"),
        )
    if host.status not in (200, 401, 403):
        return warning(
            PART,
            "registry-reached",
            f"{host.url}/ answered {host.status}",
            "registries answer 200 or 401 there",
            run(f"curl -v {host.url}/"),
        )
    if host.url.startswith("http:") and not is_loopback(name):
        return warning(
            PART,
            "registry-reached",
            f"{name} is asked without TLS",
            "bytes can be changed on the way, and are served before they are verified",
            run("# give the registry a certificate, and its authority in hosts.toml as `ca`"),
        )
    return ok(PART, "registry-reached", f"{host.url} answers")
