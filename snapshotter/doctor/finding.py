"""What an examination says: one line on one thing, why it matters, and what to change."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    UNKNOWN = "unknown"
    """Could not be looked at, mostly for want of root; says nothing of the node."""
    WARNING = "warning"
    """Works, but slower, or not for every client, or not for long."""
    ERROR = "error"
    """Models will not be mounted, or will be as empty directories."""


@dataclass(frozen=True, slots=True)
class Change:
    """What to do about a finding."""

    where: str
    """The file to change, or ``run`` for commands."""
    text: str
    """Lines to merge into the file, or the commands."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    part: str
    """The part of the node: a heading of the report."""
    name: str
    """What was looked at, for scripts: stable words joined by hyphens."""
    level: Level
    what: str
    why: str = ""
    """Why it matters; empty for what is right."""
    changes: tuple[Change, ...] = ()


def ok(part: str, name: str, what: str) -> Finding:
    return Finding(part, name, Level.OK, what)


def unknown(part: str, name: str, what: str) -> Finding:
    return Finding(part, name, Level.UNKNOWN, what)


def warning(part: str, name: str, what: str, why: str, *changes: Change) -> Finding:
    return Finding(part, name, Level.WARNING, what, why, changes)


def error(part: str, name: str, what: str, why: str, *changes: Change) -> Finding:
    return Finding(part, name, Level.ERROR, what, why, changes)


def run(*commands: str) -> Change:
    """Commands to type, one a line."""
    return Change("run", "\n".join(commands))
