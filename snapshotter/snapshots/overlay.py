"""Which mount shows a snapshot. Pure.

What containerd's own overlay snapshotter answers (``plugins/snapshots/overlay``),
so that everything that knows it goes on working; and the mounts of models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.snapshots.errors import SnapshotError
from snapshotter.snapshots.idmap import GID_LABEL, UID_LABEL
from snapshotter.snapshots.snapshot import Kind, Snapshot

_IMAGE_VOLUME = "/image-volumes/"
_STORED = re.compile(r"[^/]+/[0-9]+/(?P<key>.*)", re.DOTALL)
"""As containerd's metadata hands on the key of a client: ``<namespace>/<n>/<key>``."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Arguments of mount(2), options as in fstab(5)."""

    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """The directories of a snapshot with files of its own."""

    files: str
    work: str


def is_image_volume(key: str) -> bool:
    """Whether CRI asks for a volume: it adds options to overlay mounts that nobody needs there."""
    return _IMAGE_VOLUME in key


def shows_only_a_model(snapshot: Snapshot, ancestors: Sequence[Snapshot]) -> bool:
    """Whether a model's directory alone, read-only, is all there is to show."""
    if snapshot.model is not None:
        return True
    return (
        len(ancestors) == 1
        and ancestors[0].model is not None
        and (snapshot.kind is Kind.VIEW or is_image_volume(snapshot.name))
    )


def model_mount(directory: Path, idmap: Sequence[str] = ()) -> Mount:
    """A model as it is. containerd's remount drops nosuid and nodev unless they are repeated.

    With ``idmap`` it does not say read-only, or containerd would remount and map nothing
    (core/mount/mount_linux.go). The file system is read-only itself.
    """
    if idmap:
        return Mount("bind", str(directory), (*idmap, "rbind", "nosuid", "nodev"))
    return Mount("bind", str(directory), ("ro", "rbind", "nosuid", "nodev"))


def layer_mount(
    kind: Kind,
    layer: Layer,
    lowers: Sequence[str | Path],
    *,
    options: Sequence[str] = (),
    idmap: Sequence[str] = (),
) -> Mount:
    """An active snapshot or a view with its ``lowers``, the nearest first.

    overlayfs wants two layers: one alone is bound. ``options`` go to overlayfs only.
    A view's ``layer`` is used only when there are no lowers.
    """
    if not lowers:
        access = "rw" if kind is Kind.ACTIVE else "ro"
        return Mount("bind", layer.files, (*idmap, access, "rbind"))
    if kind is Kind.VIEW and len(lowers) == 1:
        return Mount("bind", str(lowers[0]), (*idmap, "ro", "rbind"))
    upper = (f"workdir={layer.work}", f"upperdir={layer.files}") if kind is Kind.ACTIVE else ()
    lowerdir = f"lowerdir={':'.join(map(str, lowers))}"
    return Mount("overlay", "overlay", (*idmap, *upper, lowerdir, *options))


def idmap_options(labels: Mapping[str, str]) -> tuple[str, ...]:
    """For containerd, which maps the mount (or an overlay's lowers) into the user namespace."""
    if UID_LABEL in labels and GID_LABEL in labels:
        return (f"uidmap={labels[UID_LABEL]}", f"gidmap={labels[GID_LABEL]}")
    return ()


def check_root(root: Path) -> None:
    """overlayfs takes its directories in one string: three characters mean something there."""
    if bad := set(str(root)) & set(",:\\"):
        raise SnapshotError(
            f"root {root} holds {' and '.join(sorted(bad))}, which overlayfs cannot have "
            "in a path; choose another root"
        )


def may_look_at_an_image(kind: Kind, key: str) -> bool:
    """Whether who asks for a snapshot without parent may want to see an image.

    An image whose layers containerd does not unpack, as a model's, has no parent to ask
    for, and an empty directory would pass for its content. Containers, unpacking and
    building start from nothing too, but to write; and a difference to nothing is taken
    through a view named ``-parent-view`` (containerd ``pkg/rootfs``, moby). Who does not
    come through containerd knows what he asks for.
    """
    stored = _STORED.fullmatch(key)
    if stored is None:
        return False
    if kind is Kind.VIEW:
        return "-parent-view" not in stored["key"]
    return stored["key"].startswith("/")
