"""Which paths of an artifact may become paths of a mount.

A path is refused, never repaired: two consumers that repair differently see two
different models.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from snapshotter.artifact.errors import ArtifactError

PATH_LIMIT = 4096
COMPONENT_LIMIT = 255
"""Bytes: PATH_MAX and NAME_MAX of Linux."""
DEPTH_LIMIT = 64
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc."""


def check_path(path: str, where: str) -> str:
    """Return ``path`` when it is relative, clean and no longer than Linux takes.

    Raises :class:`ArtifactError` otherwise; ``where`` says which layer has it.
    """
    why = _fault(path)
    if why is not None:
        shown = path if len(path) <= 120 else path[:120] + "…"
        raise ArtifactError(
            f"{where}: path {shown!r} is refused: {why}; the model has to be built again "
            "with clean relative paths"
        )
    return path


def strip_parents(path: str) -> str:
    """Without any ``../`` at its beginning."""
    while path.startswith("../"):
        path = path[3:].lstrip("/")
    return path


def check_target(path: str, target: str, where: str) -> str:
    """Return ``target`` of the symbolic link ``path`` when it cannot lead out of the tree.

    So it is relative, and goes up only at its beginning, where it passes directories that
    are known to be none of links: behind a component that may be a link, ``..`` could be
    anywhere. Raises :class:`ArtifactError` otherwise.
    """
    up, rest = 0, target.removeprefix("./").removesuffix("/")
    while rest == ".." or rest.startswith("../"):
        up, rest = up + 1, rest[3:]
    if up > path.count("/"):
        why: str | None = "it leads out of the model"
    elif rest:
        why = _fault(rest)
    else:
        why = None if up else _fault(rest)
    if why is not None:
        raise ArtifactError(
            f"{where}: link {path[:120]!r} to {target[:120]!r} is refused: {why}; the model has "
            "to be built again with relative links to its own files"
        )
    return target


def decode_path(path: bytes, where: str) -> str:
    """The text of a name; :class:`ArtifactError` when it is no UTF-8."""
    try:
        return path.decode()
    except UnicodeDecodeError:
        raise ArtifactError(f"{where}: path {path[:120]!r} is refused: it is no UTF-8") from None


def _fault(path: str) -> str | None:
    if not path:
        return "it is empty"
    try:
        length = len(path.encode())
    except UnicodeEncodeError:  # lone surrogates, which JSON can carry
        return "it is no valid Unicode"
    if length > PATH_LIMIT:
        return f"it has {length} bytes, at most {PATH_LIMIT} are allowed"
    if path.startswith("/"):
        return "it is absolute"
    if "\\" in path:
        return "it has a backslash"
    if _CONTROL.search(path):
        return "it has a control character"
    components = path.split("/")
    if len(components) > DEPTH_LIMIT:
        return f"it is {len(components)} levels deep, at most {DEPTH_LIMIT} are allowed"
    for component in components:
        if component in ("", ".", ".."):
            return f"it has a component {component!r}"
        if length > COMPONENT_LIMIT and len(component.encode()) > COMPONENT_LIMIT:
            return f"a component is longer than {COMPONENT_LIMIT} bytes"
    return None


def parents(path: str) -> Iterator[str]:
    """Directories above ``path``, nearest first, without the root: ``a/b/c`` gives a/b, a."""
    while (path := path.rpartition("/")[0]) != "":
        yield path


def basename(path: str) -> str:
    return path.rpartition("/")[2]
