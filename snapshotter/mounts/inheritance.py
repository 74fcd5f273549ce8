"""What the keeper has of each mount, and what to do with it at start. Decisions only."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fuse.mountinfo import FuseMount
from fuse.tree import Directory, File
from snapshotter.artifact.choice import decode_choice, encode_choice
from snapshotter.artifact.digest import parse_digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.files import Nodes
from snapshotter.mounts.identity import Identity
from snapshotter.mounts.options import MountOptions
from snapshotter.units import ByteSize

if TYPE_CHECKING:
    from snapshotter.mounts.serving import Serving

_VERSION = 1


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One mount, as its keeper is told. Unknown fields are those of a later version: ignored."""

    version: int
    registry: str
    repository: str
    digest: str
    directory: str
    since: float
    uid: int
    gid: int
    max_read: int
    fingerprint: str
    """Of the tree: see :func:`fingerprint`."""
    asked: str = ""
    """The choice of files that was asked for, see :func:`.choice.encode_choice`."""
    chosen: str = ""
    """The one that is shown, whatever the node's settings are by now."""

    @property
    def ref(self) -> ModelRef:
        digest = parse_digest(self.digest)
        return ModelRef(self.registry, self.repository, digest, decode_choice(self.asked))

    @property
    def identity(self) -> Identity:
        ref = self.ref
        return Identity(ref.digest, ref.selection, decode_choice(self.chosen))


@dataclass(frozen=True, slots=True)
class Inherited:
    """A mount of an earlier life that is still there."""

    id: str
    record: Record
    fd: int
    ledger_fd: int
    device: int
    """st_dev; 0 when it is not known."""
    shown: bool
    """It is mounted at its directory; else somebody only holds it."""

    @property
    def since(self) -> float:
        return self.record.since

    def options(self, options: MountOptions) -> MountOptions:
        """Those of today, but what the kernel has been told of it."""
        record = self.record
        return msgspec.structs.replace(
            options, uid=record.uid, gid=record.gid, max_read=ByteSize(record.max_read)
        )

    def check(self, found: str) -> None:
        """:class:`MountError` unless the tree is the one the kernel knows: nodeids must not
        mean other files now."""
        if found != self.record.fingerprint:
            raise MountError(
                f"{self.record.ref}: the files of this mount are not laid out as when it was "
                "made, by another version of modelpack-snapshotter: it cannot be served on"
            )


def new_id() -> str:
    return secrets.token_hex(16)


def encode_record(serving: Serving, options: MountOptions, of_tree: str) -> str:
    ref = serving.model.ref
    record = Record(
        version=_VERSION,
        registry=ref.registry,
        repository=ref.repository,
        digest=ref.digest,
        directory=str(serving.directory),
        since=serving.since,
        uid=options.uid,
        gid=options.gid,
        max_read=int(options.max_read),
        fingerprint=of_tree,
        asked=encode_choice(ref.selection),
        chosen=encode_choice(serving.model.chosen),
    )
    return msgspec.json.encode(record).decode()


def decode_record(raw: str) -> Record:
    """:class:`MountError` when it is none of ours."""
    try:
        record = msgspec.json.decode(raw, type=Record)
        record.identity  # noqa: B018 - raises for what is no digest, or no choice of files
    except (msgspec.DecodeError, UnicodeEncodeError, ArtifactError) as error:
        raise MountError(f"the keeper has a record that is none of a mount: {error}") from None
    if record.version != _VERSION:
        raise MountError(
            f"the mount at {record.directory} was made by another version of "
            "modelpack-snapshotter: it cannot be served on"
        )
    return record


def fingerprint(nodes: Nodes) -> str:
    """Two trees with the same one have the same files under the same nodeids."""
    tree = [
        [
            path.hex(),
            *(
                (node.size, node.content.blob.digest, node.content.offset)
                if isinstance(node, File) and node.content is not None
                else (type(node).__name__ if not isinstance(node, Directory) else "",)
            ),
        ]
        for path, node in sorted(nodes.items())
    ]
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


def device_of(mount: FuseMount) -> int:
    """mountinfo's ``major:minor`` as stat(2) has it."""
    major, minor = mount.device.split(":")
    return os.makedev(int(major), int(minor))


def shown_at(
    directory: Path, device: int, mounts: Iterable[FuseMount], others: Collection[int]
) -> int:
    """The st_dev of the mount at ``directory`` that has this ``device``; 0 when there is none.

    ``device`` 0: its owner was killed before it could write it down. Then it is the one there
    that is none of ``others``.
    """
    for mount in mounts:
        if mount.mount_point == directory:
            found = device_of(mount)
            if found == device or (device == 0 and found not in others):
                return found
    return 0


def unclaimed(
    root: Path, mounts: Iterable[FuseMount], claimed: Mapping[int, str]
) -> list[FuseMount]:
    """Mounts below ``root`` that nobody serves: to detach, in this order."""
    return [
        mount
        for mount in reversed(list(mounts))
        if mount.mount_point.parent == root and device_of(mount) not in claimed
    ]
