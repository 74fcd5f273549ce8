"""Which models this node mounts: where they may come from. Pure."""

from __future__ import annotations

from snapshotter.artifact.marker import ModelRef
from snapshotter.images.errors import ImageError
from snapshotter.images.options import ImageOptions
from snapshotter.registry.patterns import matches


class NotAllowed(ImageError):
    """The administrator has not named the registry."""


def check_allowed(ref: ModelRef, options: ImageOptions) -> None:
    """Raises :class:`NotAllowed` when ``[images] registries`` names others only.

    A layer of any image may hold a marker, and what it names is read with this node's
    credentials: so this is asked at each mount, whoever names the model.
    """
    patterns = options.registries
    if patterns and not any(matches(p, ref.registry, ref.repository) for p in patterns):
        raise NotAllowed(
            f"{ref} is not mounted: this node mounts models of {', '.join(patterns)} only; "
            f"to permit it add {ref.registry!r} to [images] registries in "
            "/etc/modelpack-snapshotter/config.toml and restart modelpack-snapshotter"
        )
