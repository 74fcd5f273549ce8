"""The snapshotter: containerd's interface (``core/snapshots``), in the interface's order.

The whole of it on one page: metadata decide, directories follow, models take the
place of the layers that stand for them. Nothing that may take long happens inside
a transaction, and nothing at all about models in Commit, for which all of
containerd waits.

What only writes has a second form, ``..._soon``, for a thread that must not wait: its
``then`` is called later, where nothing may wait either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.marker import ModelRef, decode_marker
from snapshotter.errors import ModelpackError
from snapshotter.snapshots import overlay
from snapshotter.snapshots.errors import (
    AlreadyExists,
    Busy,
    FailedPrecondition,
    NotFound,
    SnapshotError,
)
from snapshotter.snapshots.filters import parse_filters
from snapshotter.snapshots.idmap import mapped_root
from snapshotter.snapshots.layers import Layers
from snapshotter.snapshots.metadata import Metadata, Soon, Then, waited
from snapshotter.snapshots.models import Models
from snapshotter.snapshots.overlay import Mount
from snapshotter.snapshots.snapshot import Kind, Snapshot, Usage
from snapshotter.snapshots.table import Transaction

log = structlog.get_logger(__name__)

MOUNTS_AT_ONCE = 96
"""Models being mounted at one time; a registry that hangs holds each up for a minute."""


class Snapshotter:
    """Snapshots below ``root``. Thread-safe. Raises :class:`ModelpackError` and OSError."""

    def __init__(self, root: Path, models: Models) -> None:
        overlay.check_root(root)
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise SnapshotError(f"cannot make root {root}: {error.strerror}") from None
        self._models = models
        self._metadata = Metadata(root / "snapshots.db")
        try:
            self._layers = Layers(root / "snapshots")
        except BaseException:
            self._metadata.close()
            raise
        self._metadata.write(self._sweep)
        self._tell_missing()
        self._overlay_options = _kernel_options()
        self._releasing = threading.Lock()
        self._mounting = threading.BoundedSemaphore(MOUNTS_AT_ONCE)

    def work_in(self, soon: Soon) -> None:
        """See :meth:`Metadata.work_in`."""
        self._metadata.work_in(soon)

    def stat(self, key: str) -> Snapshot:
        return self._metadata.get(key)

    def update(self, name: str, labels: Mapping[str, str], paths: Sequence[str]) -> Snapshot:
        def start(then: Then[Snapshot]) -> None:
            self.update_soon(name, labels, paths, then)

        return waited(start)

    def update_soon(
        self, name: str, labels: Mapping[str, str], paths: Sequence[str], then: Then[Snapshot]
    ) -> None:
        self._metadata.write_soon(lambda transaction: transaction.update(name, labels, paths), then)

    def usage(self, key: str) -> Usage:
        """Bytes on this machine; of a model those of its marker, never what it would fetch."""
        snapshot = self._metadata.get(key)
        if snapshot.kind is Kind.VIEW or not snapshot.has_layer:
            return Usage()
        if snapshot.usage is not None:
            return snapshot.usage
        try:
            usage = self._layers.usage(snapshot.id)
        except FileNotFoundError:
            raise NotFound(f"snapshot {key} was removed meanwhile") from None
        if snapshot.kind is Kind.COMMITTED:
            self._metadata.write(lambda transaction: transaction.keep_usage(snapshot, usage))
        return usage

    def prepare(self, key: str, parent: str, labels: Mapping[str, str]) -> Mount:
        return self.create(Kind.ACTIVE, key, parent, labels)

    def view(self, key: str, parent: str, labels: Mapping[str, str]) -> Mount:
        return self.create(Kind.VIEW, key, parent, labels)

    def may_take_long(self, kind: Kind, key: str, parent: str) -> bool:
        """Whether :meth:`create` may have to ask somebody what ``key`` is for."""
        if parent:
            return False
        return (
            overlay.is_image_volume(key)
            or overlay.may_look_at_an_image(kind, key)
            or self._models.may_be_meant(key)
        )

    def create(self, kind: Kind, key: str, parent: str, labels: Mapping[str, str]) -> Mount:
        model = None if parent else self._meant(kind, key, labels)
        return self.show(
            self._metadata.write(partial(self._record, kind, key, parent, labels, model))
        )

    def create_soon(
        self, kind: Kind, key: str, parent: str, labels: Mapping[str, str], then: Then[Snapshot]
    ) -> None:
        """Of what :meth:`may_take_long` does not: the snapshot, not shown yet."""
        self._metadata.write_soon(partial(self._record, kind, key, parent, labels, None), then)

    def show(self, created: Snapshot) -> Mount:
        """The mount of a new snapshot, which is taken back when it cannot be shown."""
        try:
            return self._show(created)
        except BaseException:
            self._take_back(created.name)
            raise

    def show_layers(self, snapshot: Snapshot) -> Mount | None:
        """The mount of a snapshot that shows files of its own; None where a model must be
        mounted, which may take long."""
        ancestors = self._metadata.ancestors(snapshot)
        if snapshot.model is not None or any(found.model is not None for found in ancestors):
            return None
        return self._layer_mount(snapshot, ancestors)

    def mounts(self, key: str) -> Mount:
        """Of an active snapshot or a view, again; mounts its model again when need be."""
        return self._show(self.mountable(key))

    def mountable(self, key: str) -> Snapshot:
        snapshot = self._metadata.get(key)
        if snapshot.kind is Kind.COMMITTED:
            raise FailedPrecondition(f"snapshot {key} is committed: it has no mounts, view it")
        return snapshot

    def commit(self, name: str, key: str, labels: Mapping[str, str], parent: str = "") -> None:
        def start(then: Then[ModelRef | None]) -> None:
            self.commit_soon(name, key, labels, parent, then)

        waited(start)

    def commit_soon(
        self,
        name: str,
        key: str,
        labels: Mapping[str, str],
        parent: str,
        then: Then[ModelRef | None],
    ) -> None:
        """The model that the committed snapshot stands for, if it does."""

        def commit(transaction: Transaction) -> ModelRef | None:
            committed = transaction.commit(key, name, labels, parent)
            model = None if committed.parent else self._marked(committed)
            if model is not None:
                transaction.stand_for(committed, model)
            return model

        self._metadata.write_soon(commit, then)

    def remove(self, key: str) -> None:
        def start(then: Then[Snapshot]) -> None:
            self.remove_soon(key, then)

        self.removed(waited(start))

    def remove_soon(self, key: str, then: Then[Snapshot]) -> None:
        """To be followed by :meth:`removed`."""
        self._metadata.write_soon(lambda transaction: transaction.remove(key), then)

    def removed(self, snapshot: Snapshot) -> None:
        """What follows a removal; quick, unless the snapshot stands for a model."""
        if snapshot.has_layer:
            self._layers.delete(snapshot.id)
        if snapshot.model is not None:
            self._release(snapshot.model)

    def walk(self, filters: Sequence[str]) -> Iterator[Snapshot]:
        wanted = parse_filters(filters)
        return (found for found in self._metadata.all() if wanted.match(found.field))

    def cleanup(self) -> None:
        """Delete what is no snapshot's, and wait for deletions under way."""
        self._metadata.write(self._sweep)
        self._layers.wait()

    def settle(self, mounted: Iterable[ModelRef]) -> None:
        """Release those of ``mounted`` that no snapshot stands for: an earlier life was ended
        before it could."""
        for model in mounted:
            self._release(model)

    def models(self) -> list[ModelRef]:
        """Those that snapshots stand for."""
        return [found.model for found in self._metadata.all() if found.model is not None]

    def close(self) -> None:
        self._layers.close()
        self._metadata.close()

    def _sweep(self, transaction: Transaction) -> None:
        """While nobody else writes: nothing is half built meanwhile."""
        self._layers.sweep({snapshot.id for snapshot in transaction.all()})

    def _tell_missing(self) -> None:
        """Snapshots whose files somebody deleted: every mount of them will fail."""
        layers = {found.id: found.name for found in self._metadata.all() if found.has_layer}
        for id in self._layers.missing(layers):
            log.error(
                "the directory of a snapshot is missing; remove the images that need it and "
                "pull them again",
                snapshot=layers[id],
                path=self._layers.files(id),
            )

    def _take_back(self, key: str) -> None:
        """Remove a snapshot that cannot be shown; why it cannot is what the caller is told."""
        try:
            self.remove(key)
        except NotFound:
            pass  # the caller gave up, and containerd has cleaned up
        except (ModelpackError, OSError) as error:
            log.warning("snapshot not taken back", snapshot=key, why=str(error))

    def _meant(self, kind: Kind, key: str, labels: Mapping[str, str]) -> ModelRef | None:
        """The model that a snapshot without parent is for; raises rather than show nothing."""
        if self._metadata.exists(key):
            raise AlreadyExists(f"snapshot {key} already exists")
        model = self._models.find(key, labels)
        if model is None and (
            overlay.is_image_volume(key)
            or (overlay.may_look_at_an_image(kind, key) and self._models.is_looked_at(key))
        ):
            raise FailedPrecondition(
                f"snapshot {key}: the image has no layer to show, and is no model known here; "
                "if it is a model, pull it again with: modelpack pull REFERENCE"
            )
        return model

    def _record(
        self,
        kind: Kind,
        key: str,
        parent: str,
        labels: Mapping[str, str],
        model: ModelRef | None,
        transaction: Transaction,
    ) -> Snapshot:
        created = transaction.create(kind, key, parent, labels, model)
        if created.has_layer:
            transaction.undo(self._layers.discard, created.id)
            self._layers.create(created.id, self._owner(transaction, created))
        return created

    def _owner(self, transaction: Transaction, snapshot: Snapshot) -> tuple[int, int] | None:
        """Who owns the root directory: the user namespace's root, or whoever owns the parent's."""
        if (root := mapped_root(snapshot.labels)) is not None:
            return root
        if not snapshot.parent:
            return None
        return self._layers.owner(transaction.get(snapshot.parent).id)

    def _marked(self, committed: Snapshot) -> ModelRef | None:
        marker = self._layers.marker(committed.id)
        if marker is None:
            return None
        try:
            return decode_marker(marker)
        except ArtifactError as error:
            raise FailedPrecondition(f"snapshot {committed.name}: {error}") from None

    def _show(self, snapshot: Snapshot) -> Mount:
        ancestors = self._metadata.ancestors(snapshot)
        if overlay.shows_only_a_model(snapshot, ancestors):
            model = snapshot.model or ancestors[0].model
            assert model is not None
            directory = self._mounted(model)
            # A kernel that maps no FUSE shows the files as nobody's, readable all the same.
            mapped = snapshot.labels and self._models.bears_idmap(directory)
            return overlay.model_mount(
                directory, overlay.idmap_options(snapshot.labels) if mapped else ()
            )
        return self._layer_mount(snapshot, ancestors)

    def _layer_mount(self, snapshot: Snapshot, ancestors: Sequence[Snapshot]) -> Mount:
        return overlay.layer_mount(
            snapshot.kind,
            self._layers.layer(snapshot.id),
            [self._lower(ancestor) for ancestor in ancestors],
            options=self._overlay_options,
            idmap=self._idmap(snapshot, ancestors),
        )

    def _lower(self, ancestor: Snapshot) -> str | Path:
        if ancestor.model is None:
            return self._layers.files(ancestor.id)
        return self._layers.link_model(ancestor.id, self._mounted(ancestor.model, lower=True))

    def _idmap(self, snapshot: Snapshot, ancestors: Sequence[Snapshot]) -> tuple[str, ...]:
        """Mount options that map IDs, unless containerd chowned the parent into the namespace.

        It does so where the snapshotter does not declare the capability ``remap-ids``,
        and hands over the same labels in both cases.
        """
        root = mapped_root(snapshot.labels)
        if root is None or (ancestors and self._layers.owner(ancestors[0].id) == root):
            return ()
        return overlay.idmap_options(snapshot.labels)

    def _mounted(self, model: ModelRef, *, lower: bool = False) -> Path:
        # The snapshot is recorded, so no release begins from here on; one that began before
        # must be over, or it would take away what is mounted now.
        with self._releasing:
            pass
        if not self._mounting.acquire(blocking=False):
            raise Busy(f"{model}: {MOUNTS_AT_ONCE} models are being mounted already; try again")
        try:
            return self._models.mount(model, lower=lower)
        finally:
            self._mounting.release()

    def _release(self, model: ModelRef) -> None:
        with self._releasing:
            if self._metadata.stands_for(model):
                return
            try:
                self._models.release(model)
            except ModelpackError as error:
                log.warning("model not released", model=str(model), why=str(error))


def _kernel_options() -> tuple[str, ...]:
    """What overlayfs needs said on this kernel, of the options it knows.

    ``index=off``: with it on, a lower may not be used by two mounts with different uppers.
    ``redirect_dir=on``: without it, which is the default of most kernels, a directory of a
    lower layer cannot be renamed (EXDEV). BuildKit, which reads uppers by itself, says off
    behind it. (``userxattr`` is for daemons in a user namespace, which this one cannot be:
    it mounts FUSE for others.)
    """
    known = Path("/sys/module/overlay/parameters")
    options = {"index": "index=off", "redirect_dir": "redirect_dir=on"}
    return tuple(option for name, option in options.items() if (known / name).exists())
