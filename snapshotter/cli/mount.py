"""`modelpack mount` and `umount`: a model on a directory, without containerd and daemon."""

from __future__ import annotations

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import click

from fuse.mount import MountError as FuseMountError
from fuse.mount import fuse_mounts, unmount
from snapshotter.artifact.digest import encoded
from snapshotter.artifact.selection import Selection
from snapshotter.bell import Bell
from snapshotter.cache.blob import Blob
from snapshotter.cache.chunk_lists import OwnLists
from snapshotter.cache.documents import Documents
from snapshotter.cache.errors import CacheInUse
from snapshotter.cache.evictor import Evictor, Nobody
from snapshotter.cache.options import CacheOptions
from snapshotter.cache.store import BlobStore
from snapshotter.cli.choosing import exclude_options, left_out
from snapshotter.cli.options import Settings, plain_http_option
from snapshotter.config import Config
from snapshotter.environment import collect_rarely, raise_file_limit
from snapshotter.errors import ModelpackError
from snapshotter.fetch.fetcher import Fetcher
from snapshotter.home import user_directory
from snapshotter.images.resolve import resolve_model
from snapshotter.mounts.errors import MountError
from snapshotter.mounts.loader import Loader
from snapshotter.mounts.serving import FILESYSTEM, Serving
from snapshotter.mounts.trust import Trust
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size
from snapshotter.unpack.unpacker import Unpacker

_PATIENCE = 3.0
"""Seconds to wait for a cache that another mount of the model has."""


@click.command()
@click.argument("reference")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("-d", "--detach", is_flag=True, help="Serve in the background once it is mounted.")
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where fetched bytes are kept.  [default: ~/.cache/modelpack]",
)
@click.option(
    "--log",
    "log_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="With -d: where to write what goes wrong later.  [default: nowhere]",
)
@exclude_options
@plain_http_option
@click.pass_obj
def mount(
    settings: Settings,
    reference: str,
    directory: Path,
    detach: bool,
    cache: Path | None,
    log_file: Path | None,
    exclude: tuple[str, ...],
    exclude_categories: tuple[str, ...],
    plain_http: bool,
) -> None:
    """Show the files of the model REFERENCE at DIRECTORY and fetch their bytes as they are read.

    DIRECTORY must exist. Ends when it is unmounted (modelpack umount DIRECTORY)
    or, in the foreground, with Ctrl-C. What was fetched stays in the cache for
    the next time. Without root this needs fusermount3 (package fuse3).

    \b
    Examples:
      modelpack mount registry.example.com/models/qwen3:8b /mnt/qwen3
      modelpack mount registry.example.com/models/qwen3:8b /mnt/qwen3 -d
      modelpack mount --exclude '*.bin' registry.example.com/models/qwen3:8b /mnt/qwen3
    """
    parsed = Reference.parse(reference)
    selection = left_out(exclude, exclude_categories)
    cache = cache or user_directory("XDG_CACHE_HOME", ".cache")

    def serve(ready: Callable[[str], None]) -> None:
        with settings.registry(parsed, plain_http=plain_http) as registry:
            _serve(settings.config, registry, parsed, selection, directory.absolute(), cache, ready)

    if detach:
        click.echo(_in_background(serve, log_file))
    else:
        serve(lambda line: click.echo(f"{line}; Ctrl-C unmounts", err=True))


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--lazy", is_flag=True, help="Also while files are open: who has them keeps them.")
def umount(directory: Path, lazy: bool) -> None:
    """Unmount a model from DIRECTORY.

    \b
    Example:
      modelpack umount /mnt/qwen3
    """
    point = directory.parent.resolve() / directory.name
    if all(found.mount_point != point for found in fuse_mounts(FILESYSTEM)):
        raise MountError(
            f"{directory}: no model is mounted there; modelpack status and "
            f"'findmnt -t fuse.{FILESYSTEM}' show those that are"
        )
    try:
        unmount(point, lazy=lazy)
    except FuseMountError as error:
        raise MountError(f"{error} (--lazy)" if not lazy else str(error)) from None


def _open_store(root: Path, options: CacheOptions) -> BlobStore:
    """The store; a mount that was just taken away may need a moment to give it free."""
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            return BlobStore(root, options)
        except CacheInUse:
            if time.monotonic() > patience:
                raise
            time.sleep(0.1)


def _serve(
    config: Config,
    registry: Registry,
    reference: Reference,
    selection: Selection,
    directory: Path,
    cache: Path,
    ready: Callable[[str], None],
) -> None:
    raise_file_limit()
    collect_rarely()
    with ExitStack() as stack:
        ref, manifest = resolve_model(reference, registry)
        # A directory for each model: two mounts at once must not share one store.
        store = _open_store(cache / encoded(ref.digest), config.cache)
        stack.callback(store.close)
        served: list[Serving] = []

        def verified(blob: Blob) -> None:
            for serving in served:
                serving.verified(blob)

        def condemned(blob: Blob) -> None:
            for serving in served:
                serving.condemned(blob)

        fetcher = Fetcher(
            config.fetch,
            config.verify,
            space=store.space,
            quarantine=store.quarantine,
            on_verified=verified,
            on_bad=condemned,
        )
        stack.callback(fetcher.close)
        evictor = Evictor(store, _Users(served, fetcher))
        stack.callback(evictor.close)
        documents = Documents(cache / encoded(ref.digest) / "documents")
        documents.put(ref.digest, manifest.raw)
        own = OwnLists(cache / encoded(ref.digest) / "chunks")
        trust = Trust(config.verify, own, registry, documents)
        unpacker = Unpacker(store, fetcher, config.unpack, on_bad=condemned)
        stack.callback(unpacker.close)
        # Whoever waits here can see that it takes long, and stop it.
        loader = Loader(
            registry,
            documents,
            store,
            fetcher,
            trust,
            unpacker=unpacker,
            rules=config.mounts.rules,
        )
        ref = replace(ref, selection=selection)
        model = loader.load(ref, config.mounts.chosen(ref))
        stack.callback(loader.unload, model)
        stay = _Stay()
        stay.told.hang_on(_signals())  # before there is a mount that could be left behind
        serving = Serving(
            model,
            directory,
            fetcher,
            config.mounts,
            allow_other=os.geteuid() == 0,
            ended=stay.ended,
        )
        stack.callback(serving.stop)
        stack.callback(stay.take_away)
        stay.serving = serving
        served.append(serving)
        shown, less = model.layout, model.layout.left_out
        ready(
            f"{reference}: {len(shown.files)} files, {format_size(shown.size)} at {directory}"
            f"{f' ({less} left out)' if less else ''}"
        )
        stay.wait()


class _Users(Nobody):
    """The one model that is mounted from the cache."""

    def __init__(self, served: list[Serving], fetcher: Fetcher) -> None:
        self._served = served
        self._fetcher = fetcher

    def reads_itself(self, blob: Blob) -> bool:
        return any(serving.reads_itself(blob) for serving in self._served)

    def withdraw(self, blob: Blob) -> bool:
        return all(serving.withdraw(blob) for serving in self._served)

    def evicted(self, blob: Blob) -> None:
        self._fetcher.evicted(blob)

    def made_room(self) -> None:
        self._fetcher.made_room()


class _Stay:
    """How long a model is served: until nobody holds it any more, or we are told to go."""

    def __init__(self) -> None:
        self.told = Bell()
        """Of a signal, or of the end."""
        self.serving: Serving | None = None
        """Once it is mounted, and for as long as it may be, as far as we know."""

    def ended(self, _: Serving) -> None:
        """Somebody unmounted it, and nobody holds a file of it."""
        self.serving = None
        self.told.ring()

    def wait(self) -> None:
        """On the first signal wait for readers, on the second leave them."""
        self.told.wait()
        serving = self.serving
        if serving is None:
            return
        try:
            serving.detach(lazy=False)
            self.serving = None
        except MountError as error:
            self.take_away()
            click.echo(f"modelpack: {error}; serving on until they are closed", err=True)
        self.told.wait()

    def take_away(self) -> None:
        """Whatever happened, no mount may be left that nobody serves."""
        serving, self.serving = self.serving, None
        if serving is not None:
            try:
                serving.detach(lazy=True)
            except MountError:
                pass  # somebody was quicker


def _signals() -> list[signal.Signals]:
    """Those that end us. The terminal's end does not where nohup(1) said so."""
    asked = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    return [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]


def _in_background(serve: Callable[[Callable[[str], None]], None], log_file: Path | None) -> str:
    """Run ``serve`` in a session of its own; return its first line once it is ready.

    Forks before any thread exists. Raises what kept the child from becoming ready.
    """
    log = _open_log(log_file)
    reading, writing = os.pipe()
    if os.fork():
        os.close(writing)
        with open(reading) as pipe:
            answer = pipe.read()
        os.wait()
        if not answer.startswith("ready "):
            raise MountError(answer or "the background process ended before it had mounted")
        return answer.removeprefix("ready ")
    os.close(reading)
    os.setsid()
    if os.fork():
        os._exit(0)
    _leave_terminal(log)
    os._exit(_report(serve, writing))


def _report(serve: Callable[[Callable[[str], None]], None], pipe: int) -> int:
    """Serve in this process, telling the one who waits how the start went; the exit status."""
    started = threading.Event()

    def tell(text: str) -> None:
        if not started.is_set():
            started.set()
            os.write(pipe, text.encode())
            os.close(pipe)

    try:
        serve(lambda line: tell(f"ready {line}"))
    except BrokenPipeError:
        click.echo("modelpack: whoever asked for the mount is gone, so it is taken back", err=True)
        return 1
    except ModelpackError as error:
        click.echo(f"modelpack: {error}", err=True)
        tell(str(error))
        return 1
    except BaseException as error:
        traceback.print_exc()
        tell(f"the background process failed: {error!r}")
        return 1
    return 0


def _open_log(log_file: Path | None) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(log_file or os.devnull, flags, 0o600)
    except OSError as error:
        raise MountError(f"cannot write the log {log_file}: {error.strerror}") from None


def _leave_terminal(log: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number, target in enumerate((null, null, log)):
        os.dup2(target, number)
