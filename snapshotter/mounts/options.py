"""What an administrator sets of mounted models."""

from __future__ import annotations

import msgspec

from snapshotter.artifact.choice import SETTINGS_LIMIT, both
from snapshotter.artifact.errors import PatternError
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.rules import Rules
from snapshotter.artifact.selection import Selection
from snapshotter.registry.patterns import is_pattern, matches
from snapshotter.units import ByteSize

_NO_ID = (1 << 32) - 1  # -1 as uid_t means "none"


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[mounts.models."REGISTRY/REPOSITORY"]``: what of some models is left out, beside what
    is of all. The name may be a host with ``*`` for a label, and the beginning of a repository."""

    exclude: tuple[str, ...] = ()
    """As ``exclude`` in ``[mounts]``; these count more, so with ``!`` they take back."""
    exclude_categories: tuple[Category, ...] = ()
    """As ``exclude_categories`` in ``[mounts]``."""

    @property
    def selection(self) -> Selection:
        return Selection(
            exclude=self.exclude, exclude_categories=frozenset(self.exclude_categories)
        )

    def __post_init__(self) -> None:
        _check(self.exclude)


class MountOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[mounts]``: how models appear in containers."""

    uid: int = 0
    """Owner of every file, whatever the artifact says."""
    gid: int = 0
    """Group of every file, whatever the artifact says."""
    readahead: ByteSize = ByteSize(4 << 20)
    """What the kernel reads ahead of a sequential reader (``read_ahead_kb`` of the mount)."""
    cold_readahead: ByteSize = ByteSize(1 << 20)
    """The same while the model is not complete on this node: a page fault anywhere in a mapped
    file makes the kernel want this much around it, which then has to be fetched."""
    max_read: ByteSize = ByteSize(1 << 20)
    """The largest read the kernel asks for; over 1 MiB needs ``fs.fuse.max_pages_limit`` raised."""
    passthrough: bool = True
    """Let the kernel read complete, verified files from the cache by itself, at native speed
    (Linux 6.9 and newer; the cache must not lie on overlayfs)."""
    prefetch: bool = True
    """Fetch small files and the headers of weights once a model is mounted, before they are
    read, and complete the model in the order of its shards."""
    prefetch_file: ByteSize = ByteSize(32 << 20)
    """The largest file that is fetched whole at the mount; none of weights are."""
    prefetch_total: ByteSize = ByteSize(256 << 20)
    """How much of such files at most; the smallest are fetched then."""
    threads: int = 2
    """Threads that answer the kernel, for each mounted model; 1 or more."""

    allow_links: bool = False
    """Show symbolic and hard links of tar layers: relative ones that stay inside of the model.
    Otherwise a model that has any is refused."""
    strip_parents: bool = False
    """Take ``../`` off the beginning of a model's paths, as Docker does. Otherwise a model that
    has such a path is refused."""

    exclude: tuple[str, ...] = ()
    """Files that are left out of every model: neither shown nor fetched. Patterns as in
    ``.gitignore``, such as ``*.bin``, ``original/`` or ``!original/params.json``. Counts for
    mounts made from now on; those that a restart finds stay as they are."""
    exclude_categories: tuple[Category, ...] = ()
    """The same by what files are for: ``weight``, ``weight.config``, ``doc``, ``code``,
    ``dataset``, ``other``. Weights are known by their names, the rest by what the model says."""
    models: dict[str, ModelChoice] = {}
    """What is left out of some models only, by the place they come from."""

    def chosen(self, ref: ModelRef) -> Selection:
        """What of ``ref`` is shown on this node: what it asks for, less what is left out here."""
        chosen = Selection(
            exclude=self.exclude, exclude_categories=frozenset(self.exclude_categories)
        )
        for place, choice in self.models.items():
            if matches(place, ref.registry, ref.repository):
                chosen = both(chosen, choice.selection)
        return both(chosen, ref.selection)

    @property
    def rules(self) -> Rules:
        return Rules(allow_links=self.allow_links, strip_parents=self.strip_parents)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError("threads must be 1 or more")
        if not (0 <= self.uid < _NO_ID and 0 <= self.gid < _NO_ID):
            raise ValueError(f"uid and gid must be 0 to {_NO_ID - 1}")
        if self.max_read < 4096:
            raise ValueError("max_read must be 4096 or more")
        _check(self.exclude)
        for place in self.models:
            if not is_pattern(place):
                raise ValueError(
                    f"models: {place!r} is no place such as registry.example.com/models/qwen3"
                )


def _check(patterns: tuple[str, ...]) -> None:
    try:
        Selection(exclude=patterns)
    except PatternError as error:
        raise ValueError(f"exclude: {error}") from None
    if len(patterns) > SETTINGS_LIMIT:
        raise ValueError(f"exclude has {len(patterns)} patterns: at most {SETTINGS_LIMIT}")
