"""How registries and repositories may be called. Pure.

The grammar is that of github.com/distribution/reference. Names become parts of paths and
URLs, so whatever brings one from outside, a marker for instance, is held to it.
"""

from __future__ import annotations

import re

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[A-Fa-f0-9:]+\])(?::[0-9]{{1,5}})?")
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
NAME_LIMIT = 255
"""Characters of registry, slash and repository together."""


def is_registry(text: str) -> bool:
    """Host, or address, and port: ``registry.example.com:5000``, ``[::1]:5000``."""
    return _REGISTRY.fullmatch(text) is not None


def is_repository(text: str) -> bool:
    """Path components of lower case letters and digits: ``models/qwen3``."""
    return _REPOSITORY.fullmatch(text) is not None


def is_place(registry: str, repository: str) -> bool:
    """Whether the two name a repository, and are not too long for one."""
    return (
        is_registry(registry)
        and is_repository(repository)
        and len(registry) + 1 + len(repository) <= NAME_LIMIT
    )
