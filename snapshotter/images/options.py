"""What an administrator sets of the mirror endpoint."""

from __future__ import annotations

from typing import Literal

import msgspec

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
