"""What an administrator sets of the keeper."""

from __future__ import annotations

import msgspec


class KeeperOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[keeper]`: the process that holds mounts while the daemon is replaced."""

    enabled: bool = True
    """Whether mounts are to outlive the daemon. Without a keeper they end with it: a clean stop
    unmounts them, and readers that are left get errors."""
    address: str = ""
    """Path of the keeper's unix socket; empty: `<state>/keeper.sock`. The daemon starts a keeper
    when none answers there."""
    cgroup: str = "modelpack-keeper"
    """Control group (v2) of a keeper that the daemon starts, so that it does not end with the
    daemon's; empty: the daemon's own."""
