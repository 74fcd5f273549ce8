"""Which hosts serve a registry's name: containerd's hosts.toml and Docker's certs.d.

The format is described in containerd's ``docs/hosts.md``; order, defaults and
directory names follow ``core/remotes/docker/config/hosts.go`` of v2.1.
"""

from __future__ import annotations

import enum
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from snapshotter.registry.errors import InvalidHostsFile
from snapshotter.registry.reference import DOCKER_HUB

_DOCKER_HUB_HOST = "registry-1.docker.io"
_T = TypeVar("_T")


class Capability(enum.Flag):
    """What a host may be asked for."""

    PULL = enum.auto()
    """Content by digest."""
    RESOLVE = enum.auto()
    """Tags."""
    PUSH = enum.auto()


ALL = Capability.PULL | Capability.RESOLVE | Capability.PUSH


@dataclass(frozen=True, slots=True)
class Tls:
    """How a host is trusted, and who we are to it."""

    ca: tuple[str, ...] = ()
    """PEM files of authorities trusted besides the system's."""
    client: tuple[tuple[str, str], ...] = ()
    """PEM files of certificate and key; an empty key is in the certificate's file."""
    skip_verify: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """One server that may be asked for a registry's content."""

    url: str
    """Where the API begins, e.g. ``https://registry-1.docker.io/v2``; no slash at the end."""
    registry: str
    """The registry's name in references: containerd calls it the namespace."""
    capabilities: Capability = ALL
    tls: Tls = Tls()
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    """Sent with every request to this host and to no other; may hold secrets."""

    @property
    def address(self) -> str:
        """Host and port as in the URL, for messages and credentials."""
        return address_of(self.url)

    @property
    def query(self) -> Mapping[str, str]:
        """``ns``: how a mirror learns which registry is meant."""
        if self.address in (self.registry, default_address(self.registry)):
            return {}
        return {"ns": self.registry}


def address_of(url: str) -> str:
    """Host and port, without user and password, for messages."""
    return urlsplit(url).netloc.rpartition("@")[2]


def same_server(a: str, b: str) -> bool:
    """Are two addresses (``host:port`` or URLs) one server, as seen from this machine?

    All names of its loopback are the same, and so is 0.0.0.0, which a server listens on.
    """
    return _comparable(a) == _comparable(b)


def is_http_url(url: str) -> bool:
    """Whether a server may have given this as a place to go on to."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def default_address(registry: str) -> str:
    return _DOCKER_HUB_HOST if registry == DOCKER_HUB else registry


def find_hosts(
    registry: str,
    *,
    certs_d: Sequence[str] = (),
    plain_http: Iterable[str] = (),
    skip: Iterable[str] = (),
) -> list[Host]:
    """The hosts for ``registry`` in the order to try them; the registry itself is the last.

    ``skip`` holds addresses (``127.0.0.1:7670`` or a URL) never to be asked: our
    own mirror endpoint, which would ask us again. Raises :class:`InvalidHostsFile`.
    """
    skipped = tuple(skip)
    directory = find_directory(registry, certs_d)
    hosts: list[Host] = []
    if directory is not None:
        file = directory / "hosts.toml"
        if file.is_file():
            hosts = parse_hosts(_read(file), registry, file, plain_http=plain_http)
        else:
            tls = _docker_certificates(directory)
            hosts = [Host(default_url(registry, plain_http), registry, tls=tls)]
    if not hosts:
        hosts = [Host(default_url(registry, plain_http), registry)]
    return [h for h in hosts if not any(same_server(h.url, address) for address in skipped)]


def find_directory(registry: str, certs_d: Sequence[str]) -> Path | None:
    """The directory that configures ``registry``: ``host_port_``, ``host:port``, ``_default``."""
    name, colon, port = registry.rpartition(":")
    names = [f"{name}_{port}_"] if colon and port.isdigit() else []
    for root in certs_d:
        for candidate in (*names, registry, "_default"):
            directory = Path(root) / candidate
            if directory.is_dir():
                return directory
    return None


def default_url(registry: str, plain_http: Iterable[str] = ()) -> str:
    """Where a registry is when nothing is configured: HTTPS, except on this very machine."""
    address = default_address(registry)
    plain = registry in plain_http or (is_loopback(address) and not address.endswith(":443"))
    return f"{'http' if plain else 'https'}://{address}/v2"


def is_loopback(address: str) -> bool:
    """Is ``host[:port]`` localhost, in 127.0.0.0/8, or ::1?"""
    host = urlsplit(f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def parse_hosts(
    text: str, registry: str, file: Path, *, plain_http: Iterable[str] = ()
) -> list[Host]:
    """Read a hosts.toml. Relative certificate paths are meant from ``file``'s directory.

    Unknown keys are tolerated, as containerd adds some from time to time.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidHostsFile(f"{file}: not TOML: {error}") from None
    tables = _typed(document.get("host", {}), dict, file, "host")
    hosts = [
        _parse_host(_url(server, f'[host."{server}"]', file, table), registry, table, file)
        for server, table in tables.items()
        if _typed(table, dict, file, f'host."{server}"') is not None
    ]
    server = _typed(document.get("server", ""), str, file, "server")
    own = _url(server, "server", file, document) if server else default_url(registry, plain_http)
    return [*hosts, _parse_host(own, registry, document, file)]


def _parse_host(url: str, registry: str, table: Mapping[str, Any], file: Path) -> Host:
    return Host(
        url=url,
        registry=registry,
        capabilities=_capabilities(table, file),
        tls=Tls(
            ca=tuple(_path(name, file) for name in _strings(table.get("ca", []), file, "ca")),
            client=_client(table.get("client", []), file),
            skip_verify=_typed(table.get("skip_verify", False), bool, file, "skip_verify"),
        ),
        headers={
            name: ", ".join(_strings(value, file, f"header.{name}"))
            for name, value in _typed(table.get("header", {}), dict, file, "header").items()
        },
    )


def _url(server: str, where: str, file: Path, table: Mapping[str, Any]) -> str:
    url = server if "://" in server else f"https://{server}"
    if not is_http_url(url) or urlsplit(url).username is not None:
        raise InvalidHostsFile(f"{file}: {where}: expected a URL such as https://mirror.example")
    parts = urlsplit(url)
    path = re.sub(r"/+", "/", parts.path).rstrip("/")
    override = _typed(table.get("override_path", False), bool, file, "override_path")
    if not override and not path.endswith("/v2"):
        path += "/v2"
    return f"{parts.scheme}://{parts.netloc}{path}"


def _capabilities(table: Mapping[str, Any], file: Path) -> Capability:
    names = _strings(table.get("capabilities", []), file, "capabilities")
    if not names:
        return ALL
    result = Capability(0)
    for name in names:
        # Later containerd versions know more of them ("referrers"); not ours to refuse.
        if name in ("pull", "resolve", "push"):
            result |= Capability[name.upper()]
    return result


def _client(value: Any, file: Path) -> tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        return ((_path(value, file), ""),)
    pairs = []
    for item in _typed(value, list, file, "client"):
        names = _strings(item, file, "client")
        if not 1 <= len(names) <= 2:
            raise InvalidHostsFile(f"{file}: client: expected a file or [certificate, key]")
        key = names[1] if len(names) == 2 else ""
        pairs.append((_path(names[0], file), _path(key, file) if key else ""))
    return tuple(pairs)


def _docker_certificates(directory: Path) -> Tls:
    """``*.crt`` are authorities, ``NAME.cert`` with ``NAME.key`` a client certificate."""
    try:
        names = sorted(directory.iterdir())
    except OSError as error:
        raise InvalidHostsFile(f"{directory}: cannot be read: {error.strerror}") from None
    client = [(str(f), str(f.with_suffix(".key"))) for f in names if f.suffix == ".cert"]
    return Tls(ca=tuple(str(f) for f in names if f.suffix == ".crt"), client=tuple(client))


def _comparable(address: str) -> tuple[str, int]:
    parts = urlsplit(address if "://" in address else f"//{address}")
    host = parts.hostname or ""
    if is_loopback(parts.netloc) or host in ("0.0.0.0", "::"):
        host = "loopback"
    return host, parts.port or (80 if parts.scheme == "http" else 443)


def _path(name: str, file: Path) -> str:
    return str(file.parent / name)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidHostsFile(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise InvalidHostsFile(f"{file}: not TOML: expected UTF-8") from None


def _strings(value: Any, file: Path, key: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidHostsFile(f"{file}: {key}: expected a string or a list of strings")
    return values


def _typed(value: Any, kind: type[_T], file: Path, key: str) -> _T:
    if not isinstance(value, kind):
        expected = {dict: "a table", str: "a string", bool: "true or false", list: "a list"}
        raise InvalidHostsFile(f"{file}: {key}: expected {expected[kind]}")
    return value
