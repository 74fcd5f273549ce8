"""References to artifacts as Docker writes them.

The grammar is that of github.com/distribution/reference: a first component
with a dot, a colon or a capital letter, or ``localhost``, is a registry;
without one the registry is docker.io, and a single name there lives in library/.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.places import NAME_LIMIT, is_place, is_registry, is_repository
from snapshotter.registry.errors import InvalidReference

DOCKER_HUB = "docker.io"

_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_IDENTIFIER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an artifact is: at least one of ``tag`` and ``digest`` is set; the digest rules."""

    registry: str
    """Host and port as written, e.g. ``docker.io`` or ``localhost:5000``."""
    repository: str
    tag: str | None
    digest: Digest | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a reference; without tag and digest the tag is ``latest``.

        Raises :class:`InvalidReference` naming the part that is wrong.
        """
        if "://" in text:
            raise _invalid(text, "leave out the scheme")
        if _IDENTIFIER.fullmatch(text):
            raise _invalid(text, "64 hex digits alone are no name; write NAME@sha256:...")
        rest, at, digest_text = text.partition("@")
        try:
            digest = parse_digest(digest_text) if at else None
        except ArtifactError as error:
            raise _invalid(text, str(error)) from None
        name, tag = _split_tag(rest)
        if tag is not None and not _TAG.fullmatch(tag):
            raise _invalid(text, f"{tag!r} is no tag")
        registry, repository = _split_registry(name)
        if not is_registry(registry):
            raise _invalid(text, f"{registry!r} is no registry host")
        if not is_repository(repository):
            hint = "use lower case" if is_repository(repository.lower()) else "see Docker"
            raise _invalid(text, f"{repository!r} is no repository name: {hint}")
        if not is_place(registry, repository):
            raise _invalid(text, f"name longer than {NAME_LIMIT} characters")
        if tag is None and digest is None:
            tag = "latest"
        return cls(registry, repository, tag, digest)

    @property
    def name(self) -> str:
        """Registry and repository without tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def target(self) -> str:
        """What to ask the registry for: the digest when there is one, else the tag."""
        return self.digest or self.tag or "latest"

    @property
    def familiar(self) -> str:
        """As people write it: without ``docker.io/`` and ``library/``."""
        text = str(self)
        if self.registry == DOCKER_HUB:
            text = text.removeprefix(f"{DOCKER_HUB}/")
            if self.repository.count("/") == 1:
                text = text.removeprefix("library/")
        return text

    def with_digest(self, digest: Digest) -> Reference:
        """The same place pinned to ``digest``; the tag is dropped, for it may move."""
        return Reference(self.registry, self.repository, None, digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag is not None else ""
        digest = f"@{self.digest}" if self.digest is not None else ""
        return f"{self.name}{tag}{digest}"


def _split_tag(text: str) -> tuple[str, str | None]:
    # A colon before the last slash belongs to the registry's port.
    head, colon, tag = text.rpartition(":")
    if colon and "/" not in tag:
        return head, tag
    return text, None


def _split_registry(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    is_host = any(c in first for c in ".:[") or first == "localhost" or first != first.lower()
    if not slash or not is_host:
        registry, repository = DOCKER_HUB, name
    else:
        registry, repository = first, rest
    if registry == "index.docker.io":
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    return registry, repository


def _invalid(text: str, why: str) -> InvalidReference:
    return InvalidReference(f"invalid reference {text[:300]!r}: {why}")
