"""What an administrator may allow that is refused by default."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """Of the paths and links of a model."""

    allow_links: bool = False
    """Serve links of tar layers: relative ones that stay inside of the model, and hard
    links to files before them in the same layer."""
    strip_parents: bool = False
    """Take ``../`` off the beginning of paths, as Docker does, instead of refusing them."""


STRICT = Rules()
