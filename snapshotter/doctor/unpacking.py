"""containerd's transfer service: whom it unpacks for, and what it must not download. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from snapshotter.artifact.mediatypes import MODEL_LAYER_TYPES
from snapshotter.doctor.effective import Effective, Unpack
from snapshotter.doctor.finding import Change, Finding, error, ok
from snapshotter.doctor.samples import NAME
from snapshotter.doctor.wanted import PART, RESTART, Wanted


def unpacking(
    release: tuple[int, int], effective: Effective, name: str, file: str, wanted: Wanted
) -> Iterator[Finding]:
    """The transfer service: whom it unpacks for, and what it must not download."""
    if release < (1, 7):
        return
    change = Change(file, unpack_lines(release, effective, name, wanted))
    needed = dict.fromkeys([name, "overlayfs", effective.snapshotter or "overlayfs"])
    mine = [u for u in effective.unpack if _fits(u, wanted)]
    missing = [s for s in needed if s not in {u.snapshotter for u in mine}]
    if missing:
        yield error(
            PART,
            "unpack-config",
            f"the transfer service has no unpack_config of linux/{wanted.architecture} for "
            f"{' and '.join(missing)}",
            "pulls for it fail with `no unpack platforms defined`",
            change,
            RESTART,
        )
    known = {NAME, "overlayfs", "native", *(p.name for p in effective.proxies)}
    known |= {"btrfs", "devmapper", "zfs", "blockfile", "erofs", "aufs", "windows"}
    for unpack in effective.unpack:
        if unpack.snapshotter not in known:
            yield error(
                PART,
                "unpack-config",
                f"unpack_config names snapshotter {unpack.snapshotter!r}, which does not exist",
                "CRI does not load: kubelet finds no CRI in this containerd",
                change,
                RESTART,
            )
    if release < (2, 1):
        return
    lacking = [u for u in mine if u.snapshotter in needed and (_lacks(u) or u.config_type)]
    for unpack in lacking:
        lacks = _lacks(unpack)
        what = (
            f"layer_types for {unpack.snapshotter} lack {len(lacks)} of the "
            f"{len(MODEL_LAYER_TYPES)} types of model layers, such as {lacks[0]}"
            if lacks
            else f"unpack_config for {unpack.snapshotter} has config_type {unpack.config_type!r}"
        )
        yield error(
            PART,
            "layer-types",
            what,
            "a pull downloads such models as a whole, and mounts an empty directory",
            change,
            RESTART,
        )
    if not missing and not lacking:
        yield ok(PART, "layer-types", "layer_types are complete for every unpack_config")


def unpack_lines(release: tuple[int, int], effective: Effective, name: str, wanted: Wanted) -> str:
    """All entries, for they replace each other as a whole."""
    types = ",\n".join(f'    "{media_type}"' for media_type in MODEL_LAYER_TYPES)
    layer_types = f"  layer_types = [\n{types},\n  ]\n" if release >= (2, 1) else ""
    return "".join(
        f"""[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux/{wanted.architecture}"
  snapshotter = "{snapshotter}"
  differ = "walking"
{layer_types}"""
        for snapshotter in dict.fromkeys([name, "overlayfs", effective.snapshotter or "overlayfs"])
    )


def _fits(unpack: Unpack, wanted: Wanted) -> bool:
    parts = unpack.platform.split("/")
    return parts[0] == "linux" and parts[1:2] in ([], [wanted.architecture])


def _lacks(unpack: Unpack) -> list[str]:
    return [t for t in MODEL_LAYER_TYPES if t not in unpack.layer_types]
