"""The files of config/containerd/, made to fit a temporary directory.

Tests and demo use the very files an administrator copies: default paths and
ports are exchanged, the rest stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tomlkit

from integration.harness.machine import REPOSITORY
from integration.harness.places import Places

SAMPLES = REPOSITORY / "config" / "containerd"


def render(sample: str, places: Places, additions: Iterable[Mapping[str, Any]]) -> str:
    """The sample with our places instead of the default ones, and ``additions`` merged in.

    Raises :class:`ValueError` when a path of the machine's own is left in it.
    """
    document: dict[str, Any] = tomlkit.parse((SAMPLES / sample).read_text())
    _exchange(document, places.exchanged)
    for addition in additions:
        _merge(document, addition)
    for value in _strings(document):
        if value.startswith(("/run/", "/etc/", "/var/lib/")):
            raise ValueError(f"{sample} names {value}, which tests must not touch")
    return tomlkit.dumps(document)


def write_hosts(places: Places, registry: str, scheme: str = "http") -> None:
    """Put the sample hosts.toml for ``registry`` (host:port), whose pulls then ask our mirror."""
    sample = SAMPLES / "certs.d" / "registry.example.com" / "hosts.toml"
    text = sample.read_text().replace("https://registry.example.com", f"{scheme}://{registry}")
    for default, ours in places.exchanged.items():
        text = text.replace(default, ours)
    directory = places.certs / registry
    directory.mkdir(exist_ok=True)
    (directory / "hosts.toml").write_text(text)


def _exchange(table: Any, exchanged: Mapping[str, str]) -> None:
    for key, value in list(table.items() if isinstance(table, dict) else enumerate(table)):
        if isinstance(value, (dict, list)):
            _exchange(value, exchanged)
        elif isinstance(value, str):
            for default, ours in exchanged.items():
                if value == default or value.startswith(f"{default}/"):
                    table[key] = ours + value[len(default) :]


def _merge(table: Any, additions: Mapping[str, Any]) -> None:
    for key, value in additions.items():
        if isinstance(value, Mapping):
            _merge(table.setdefault(key, {}), value)
        else:
            table[key] = value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)
