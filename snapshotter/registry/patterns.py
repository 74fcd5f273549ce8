"""Patterns that name registries and parts of them, as kubelet writes them in ``matchImages``.

``registry.example.com``, ``*.example.com``, ``registry.example.com:5000/team``: a wildcard
stands for characters of one label of the host, never for a dot; a port must be the same; a path
is the beginning of the repository, whole components of it (kubelet would also take ``team`` for
``teams``). Pure.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from snapshotter.registry.reference import DOCKER_HUB

DOCKER_HUB_NAMES = (DOCKER_HUB, "registry-1.docker.io", "index.docker.io")
_VERSIONS = ("v1", "v2")


def is_pattern(text: str) -> bool:
    """Whether ``text`` may be meant as a pattern: a host, no scheme, no spaces."""
    host = text.partition("/")[0]
    return bool(host) and "://" not in text and not any(c.isspace() for c in text)


def matches(pattern: str, registry: str, repository: str) -> bool:
    """Whether ``pattern`` covers ``repository`` at ``registry`` (``host[:port]``).

    All names of Docker Hub are one registry.
    """
    host, _, path = pattern.partition("/")
    path = path.strip("/")
    if path and not f"{repository}/".startswith(f"{path}/"):
        return False
    names = DOCKER_HUB_NAMES if registry in DOCKER_HUB_NAMES else (registry,)
    return any(_host_matches(host, name) for name in names)


def without_scheme(key: str) -> str:
    """A key of Docker's ``auths`` as a pattern: ``https://index.docker.io/v1/`` is a host."""
    text = key.removeprefix("https://").removeprefix("http://")
    host, _, path = text.partition("/")
    path = path.strip("/")
    return host if not path or path in _VERSIONS else f"{host}/{path}"


def _host_matches(pattern: str, host: str) -> bool:
    if pattern.startswith("["):  # an IPv6 address, no set of characters
        return pattern.lower() == host.lower()
    wanted, wanted_port = _split(pattern)
    labels, port = _split(host)
    return (
        wanted_port == port and len(wanted) == len(labels) and all(map(fnmatchcase, labels, wanted))
    )


def _split(host: str) -> tuple[list[str], str]:
    name, colon, port = host.rpartition(":")
    if not colon or "]" in port:
        name, port = host, ""
    return name.lower().split("."), port
