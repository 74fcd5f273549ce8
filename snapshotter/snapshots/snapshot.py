"""A snapshot as containerd describes it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from snapshotter.artifact.marker import ModelRef


class Kind(IntEnum):
    """Numbered as in ``containerd.services.snapshots.v1.Kind``."""

    VIEW = 1
    ACTIVE = 2
    COMMITTED = 3


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes and inodes of a snapshot alone, without its parents'."""

    size: int = 0
    inodes: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: int
    name: str
    """The key while active or a view, the name once committed: one space of names."""
    parent: str
    """Name of the committed parent, or ``""``."""
    kind: Kind
    labels: Mapping[str, str]
    created: int
    """Nanoseconds since the epoch; set anew by a commit, never else."""
    updated: int
    usage: Usage | None = None
    """Of a committed one, once it was counted."""
    model: ModelRef | None = None
    """The model that takes the place of this snapshot's files."""

    @property
    def has_layer(self) -> bool:
        """Whether it has a directory of files of its own: what is only looked at has none."""
        if self.kind is Kind.COMMITTED:
            return True
        return self.model is None and (self.kind is Kind.ACTIVE or not self.parent)

    def field(self, path: Sequence[str]) -> str | None:
        """For filters: ``kind``, ``name``, ``parent``, ``labels.<label>``; None when absent."""
        match path:
            case ["kind", *_]:
                return self.kind.name.lower()
            case ["name", *_]:
                return self.name
            case ["parent", *_]:
                return self.parent
            case ["labels", *label]:
                return self.labels.get(".".join(label))
        return None
