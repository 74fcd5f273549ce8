"""What an administrator sets of images: the mirror endpoint, kubelet's image service."""

from __future__ import annotations

from typing import Literal

import msgspec

from snapshotter.registry.patterns import is_pattern
from snapshotter.units import Seconds


class MirrorOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[mirror]``: the registry endpoint that ``hosts.toml`` files name."""

    enabled: bool = True
    """Whether the endpoint is served at all."""
    address: str = "127.0.0.1:7670"
    """IP address and port to listen on, as in ``hosts.toml``; an IPv6 address in brackets."""
    allow_remote: bool = False
    """Permit an address that is not loopback: whoever reaches it can ask, with this machine's
    credentials, which references are models."""
    registries: tuple[str, ...] = ()
    """Registries to answer for, such as ``docker.io``; empty: those whose ``hosts.toml`` names
    the endpoint."""
    pinned: Literal["refuse", "pass"] = "refuse"
    """A model pulled by digest: ``refuse`` ends the pull with an error that says what to do;
    ``pass`` lets the client go on, for a containerd whose ``layer_types`` are configured."""
    upstream_timeout: Seconds = Seconds(10)
    """The longest a registry may take to say whether a reference is a model."""
    keep: Seconds = Seconds(5)
    """How long the answer for a tag is remembered."""


class ImageOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[images]``: which models are mounted."""

    registries: tuple[str, ...] = ()
    """Where models may come from: ``registry.example.com``, ``*.example.com``,
    ``registry.example.com:5000/team``; empty: from anywhere. Any image may hold a layer that
    stands for a model, which is then read with this node's credentials."""

    def __post_init__(self) -> None:
        for pattern in self.registries:
            if not is_pattern(pattern):
                raise ValueError(
                    f"registries: {pattern!r} is no registry such as *.example.com:5000/team"
                )


class CriOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[cri]``: the image service for kubelet's ``imageServiceEndpoint``.

    It forwards everything to containerd, and keeps the pull secrets of models in memory, so that
    their bytes can be read with them later.
    """

    enabled: bool = False
    """Whether it is served."""
    address: str = ""
    """Path of the unix socket; empty: ``<state>/cri.sock``."""
