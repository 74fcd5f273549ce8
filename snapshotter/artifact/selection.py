"""Which files of a model somebody wants: by pattern, and by what they are for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.patterns import parse_pattern


@dataclass(frozen=True, slots=True)
class Selection:
    """Everything, unless it says otherwise. Making one raises :class:`PatternError`.

    Patterns are those of :mod:`.patterns`; of several the last that matches counts, and one
    with ``!`` takes back. A pattern of ``exclude`` with ``!`` also takes back what its category
    would leave out, as it does for users of ModelPack's CSI driver.
    """

    include: tuple[str, ...] = ()
    """Only files these match; all where there are none."""
    exclude: tuple[str, ...] = ()
    """Not the files these match."""
    categories: frozenset[Category] = frozenset()
    """Only files of these; of all where there are none."""
    exclude_categories: frozenset[Category] = frozenset()

    def __post_init__(self) -> None:
        for text in (*self.include, *self.exclude):
            parse_pattern(text)

    def __bool__(self) -> bool:
        """Whether it may leave something out."""
        return bool(self.include or self.exclude or self.categories or self.exclude_categories)

    def selects(self, path: str, category: Category) -> bool:
        """Whether the file ``path`` is wanted.

        ``category`` is what :func:`.categories.category_of` says of it.
        """
        if self.include and not _verdict(self.include, path):
            return False
        excluded = _verdict(self.exclude, path)
        if excluded is not None:
            return not excluded
        if self.categories and category not in self.categories:
            return False
        return category not in self.exclude_categories

    def unused(self, paths: Iterable[str]) -> tuple[str, ...]:
        """Patterns of ``include`` that match none of ``paths``: most likely mistyped."""
        unused = [parse_pattern(text) for text in self.include if not text.startswith("!")]
        for path in paths:
            if not unused:
                break
            unused = [pattern for pattern in unused if not pattern.matches(path)]
        return tuple(pattern.text for pattern in unused)


def _verdict(patterns: Sequence[str], path: str) -> bool | None:
    """What the last pattern that matches says; None when there is none."""
    for text in reversed(patterns):
        pattern = parse_pattern(text)
        if pattern.matches(path):
            return not pattern.negated
    return None
