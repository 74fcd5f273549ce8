"""`modelpack-snapshotter`: the daemon. Puts the rooms together, waits, takes them apart again."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
import structlog

from snapshotter import __version__
from snapshotter.api import ApiServer, status_of
from snapshotter.artifact.marker import ModelRef
from snapshotter.audits import Audits
from snapshotter.bell import Bell
from snapshotter.cache.chunk_lists import OwnLists
from snapshotter.cache.completeness import is_complete
from snapshotter.cache.documents import Documents
from snapshotter.cache.evictor import Evictor
from snapshotter.cache.pins import Pins
from snapshotter.cache.store import BlobStore
from snapshotter.config import DEFAULT_PATH, Config, load_config
from snapshotter.environment import check_environment, collect_rarely, concerns, raise_file_limit
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.garbage import Garbage, NodeUsers
from snapshotter.holdings import holdings_of
from snapshotter.images.allowed import check_allowed
from snapshotter.images.containerd import Containerd
from snapshotter.images.cri import PrivatePlaces, PullWatcher
from snapshotter.images.cri_proxy import serve as serve_cri
from snapshotter.images.direct import find_image_volume, is_looked_at, may_be_image_volume
from snapshotter.images.known import KnownImages
from snapshotter.images.mirror import named_in_hosts
from snapshotter.images.mirror import serve as serve_mirror
from snapshotter.images.options import ImageOptions
from snapshotter.keeper.keeping import Keeping
from snapshotter.locks import lock_directory
from snapshotter.logs import configure_logs
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.table import Mounts
from snapshotter.mounts.trust import Trust
from snapshotter.mounts.visibility import check_seen
from snapshotter.notify import notify
from snapshotter.pinning import Pinning
from snapshotter.registry.client import Registry
from snapshotter.registry.keyring import NodeKeyring, PresentedKeyring, PullSecretKeyring
from snapshotter.registry.pull_secrets import PullSecrets
from snapshotter.snapshots.service import serve as serve_snapshots
from snapshotter.sockets import listener_of, prepare_socket
from snapshotter.unmounting import unmount_all
from snapshotter.unpack.unpacker import Unpacker

log = structlog.get_logger(__name__)


class NodeModels:
    """What the snapshotter needs of models, from the rooms that have it."""

    def __init__(self, containerd: Containerd, mounts: Mounts, options: ImageOptions) -> None:
        self._containerd = containerd
        self._mounts = mounts
        self._options = options

    def may_be_meant(self, key: str) -> bool:
        return may_be_image_volume(key)

    def find(self, key: str, labels: Mapping[str, str]) -> ModelRef | None:
        del labels  # a hint at best; containerd's own records decide
        return find_image_volume(key, self._containerd)

    def is_looked_at(self, key: str) -> bool:
        return is_looked_at(key, self._containerd)

    def mount(self, ref: ModelRef, *, lower: bool = False) -> Path:
        check_allowed(ref, self._options)
        directory = self._mounts.mount(ref, lower=lower)
        check_seen(directory, listener_of(self._containerd.address), "containerd")
        return directory

    def bears_idmap(self, directory: Path) -> bool:
        return self._mounts.bears_idmap(directory)

    def release(self, ref: ModelRef) -> None:
        self._mounts.release(ref)


@contextmanager
def running(config: Config) -> Iterator[None]:
    """The whole daemon, from the ground up; on leaving everything is stopped. Mounts stay where
    a keeper holds them, for the next daemon; else they end."""
    check_environment(config)
    raise_file_limit()
    collect_rarely()
    for address in (config.grpc_address, config.api_address, config.cri_address):
        if address is not None:
            prepare_socket(address)  # before anything of a daemon that runs is touched
    # Resolved, for mounts of an earlier life are found by the path the kernel shows.
    root, state = Path(config.root), Path(config.state).resolve()
    for directory in (root, state):
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with ExitStack() as stack:
        for directory in (root, state):
            stack.callback(os.close, lock_directory(directory))
        node = NodeKeyring(config.registry)
        secrets = PullSecrets(state / "pull-secrets.json")
        keyring = PullSecretKeyring(node, secrets)
        registry = Registry(config.registry, skip_hosts=(config.mirror.address,), keyring=keyring)
        stack.callback(registry.close)
        store = BlobStore(root / "cache", config.cache)
        stack.callback(store.close)
        fetcher = Fetcher(
            config.fetch,
            config.verify,
            space=store.space,
            quarantine=store.quarantine,
            on_verified=lambda blob: mounts.verified(blob),
            on_bad=lambda blob: mounts.condemned(blob),
        )
        stack.callback(fetcher.close)
        documents = Documents(root / "documents")
        trust = Trust(config.verify, OwnLists(root / "chunks"), registry, documents)
        unpacker = Unpacker(
            store, fetcher, config.unpack, on_bad=lambda blob: mounts.condemned(blob)
        )
        loader = Loader(
            registry,
            documents,
            store,
            fetcher,
            trust,
            unpacker=unpacker,
            rules=config.mounts.rules,
            patience=config.unpack.mount_wait,
        )
        keeper = Keeping(config.keeper_address, config.keeper) if config.keeper.enabled else None
        if keeper is not None:
            stack.callback(keeper.close)
        mounts = Mounts(state / "mounts", loader, fetcher, config.mounts, keeper)
        stack.callback(mounts.close)
        mounts.adopt()
        pins = Pins(root / "pins")
        evictor = Evictor(store, NodeUsers(documents, pins, mounts, fetcher))
        stack.callback(evictor.close)
        # Before the mounts: a verifier that tells the kernel of wrong bytes needs them served.
        stack.callback(fetcher.close)
        stack.callback(unpacker.close)
        # And before that: reads that wait are answered by the next daemon, not failed.
        stack.callback(mounts.leave)
        containerd = stack.enter_context(Containerd(Path(config.containerd.address)))

        if config.mirror.enabled:
            mirror = serve_mirror(
                config.mirror,
                registry.identified(node),
                root / "stubs",
                serves=named_in_hosts(config.mirror.address, config.registry.certs_d),
                upstream_for=lambda secret: registry.identified(PresentedKeyring(secret)),
                keep_secret=secrets.keep,
            )
            stack.callback(mirror.stop)
        if config.cri_address is not None:
            places = PrivatePlaces(root / "private-models.json")
            watcher = PullWatcher(
                containerd, secrets, places, complete=lambda d: is_complete(d, documents, store)
            )
            proxy = serve_cri(config.cri_address, containerd.address, watcher)
            stack.callback(proxy.stop)
        models = NodeModels(containerd, mounts, config.images)
        garbage = Garbage(
            store,
            documents,
            pins,
            mounts,
            evictor,
            known=KnownImages(containerd).manifests,
            snapshots=lambda: snapshots.models(),
        )
        stack.callback(garbage.close)
        audits = Audits(store, documents, trust, fetcher.condemn)
        pinning = Pinning(pins, documents, registry, store)
        status = status_of(
            store, fetcher, mounts, registry, keeper, evictor=evictor, pinning=pinning
        )
        held = holdings_of(store, documents)
        api = ApiServer(config.api_address, status, audits, held, garbage=garbage, pinning=pinning)
        stack.callback(api.stop)
        # Last up, first down: containerd must never meet a half-built daemon.
        snapshots = serve_snapshots(config.grpc_address, root, models)
        stack.callback(snapshots.stop)
        api.start()
        snapshots.settle([serving.model.ref for serving in mounts.mounted()])
        garbage.start()
        yield


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"Configuration file (TOML).  [default: {DEFAULT_PATH} where it exists]",
)
@click.option("--check", is_flag=True, help="Check configuration and machine, then exit.")
@click.option(
    "--unmount",
    is_flag=True,
    help="Unmount all models that a stopped daemon left mounted, then exit. Who still reads "
    "them gets errors.",
)
@click.version_option(__version__, prog_name="modelpack-snapshotter")
def daemon(config_path: Path | None, check: bool, unmount: bool) -> None:
    """The containerd snapshotter that mounts ModelPack models while their bytes arrive.

    Runs in the foreground as root, logs to standard error, and ends on SIGTERM
    or Ctrl-C. Models stay mounted, held by the keeper, and the next daemon
    serves them on; --unmount ends that. All settings are in the configuration
    file; every one has a default.
    """
    config = load_config(config_path)
    configure_logs(config.log)
    if check:
        check_environment(config)
        click.echo("configuration and machine are in order")
        return
    if unmount:
        click.echo(f"unmounted {unmount_all(config)} models")
        return
    for concern in concerns():
        log.warning(concern)
    stop = Bell()
    stop.hang_on([signal.SIGTERM, signal.SIGINT])
    with running(config):
        log.info("ready", version=__version__, address=str(config.grpc_address), pid=os.getpid())
        _notify("READY=1")
        stop.wait()
        log.info("stopping")
        _notify("STOPPING=1")
    log.info("stopped")
    sys.stderr.flush()
    # Calls that wait for a registry, whose callers are gone, would keep the process.
    os._exit(0)


def main() -> None:
    """Entry point: one line and status 1 for what an administrator can mend."""
    try:
        daemon(standalone_mode=False, prog_name="modelpack-snapshotter")
    except ModelpackError as error:
        click.echo(f"modelpack-snapshotter: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _notify(state: str) -> None:
    """systemd starts containerd only after we are ready."""
    try:
        notify(state)
    except OSError as error:
        log.warning("systemd not told", state=state, error=str(error))
