"""What the snapshotter needs of models, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from snapshotter.artifact.marker import ModelRef


class Models(Protocol):
    """Models of this node. Thread-safe; every method raises :class:`ModelpackError`."""

    def may_be_meant(self, key: str) -> bool:
        """Whether :meth:`find` may have to ask somebody about ``key``. Pure."""

    def find(self, key: str, labels: Mapping[str, str]) -> ModelRef | None:
        """The model that a snapshot without parent, asked for under ``key``, stands for.

        None when the key is no model's. Raises when it is one that cannot be served.
        """

    def is_looked_at(self, key: str) -> bool:
        """Whether a client wants to see an image in the snapshot ``key`` without parent."""

    def mount(self, ref: ModelRef, *, lower: bool = False) -> Path:
        """A directory that shows the model's files; idempotent, may take as long as a fetch.

        ``lower``: it is to be the lower of an overlayfs, which bears no file that changes its
        identity, not even to be read faster.
        """

    def bears_idmap(self, directory: Path) -> bool:
        """Whether the mount at ``directory``, an answer of :meth:`mount`, may be id-mapped."""

    def release(self, ref: ModelRef) -> None:
        """No snapshot stands for a model of this digest and choice any more. Quick."""
