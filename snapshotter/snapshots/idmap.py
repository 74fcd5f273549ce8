"""Labels that map a snapshot's IDs into a user namespace. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from snapshotter.snapshots.errors import InvalidArgument

UID_LABEL = "containerd.io/snapshot/uidmapping"
GID_LABEL = "containerd.io/snapshot/gidmapping"
_NOBODY = 2**32 - 1


def mapped_root(labels: Mapping[str, str]) -> tuple[int, int] | None:
    """UID and GID on the host of the namespace's root; None without such labels.

    The form is ``<container ID>:<host ID>:<length>``, several separated by commas; an
    absent one of the two maps each ID to itself. Raises :class:`InvalidArgument`.
    """
    if UID_LABEL not in labels and GID_LABEL not in labels:
        return None
    return _root(UID_LABEL, labels), _root(GID_LABEL, labels)


def _root(label: str, labels: Mapping[str, str]) -> int:
    text = labels.get(label, "")
    if not text:
        return 0
    host_root = None
    for mapping in text.split(","):
        try:
            container, host, length = (int(number) for number in mapping.split(":"))
        except ValueError:
            raise InvalidArgument(
                f"label {label}: expected container:host:length, got {mapping!r}"
            ) from None
        if not all(0 <= number < _NOBODY for number in (container, host, length)):
            raise InvalidArgument(f"label {label}: {mapping!r} is out of the range of IDs")
        if host_root is None and container == 0 and length > 0:
            host_root = host
    if host_root is None:
        raise InvalidArgument(f"label {label}: {text!r} maps no root")
    return host_root
