"""Everything the cases need, made when it is first asked for and taken away at the end.

One temporary directory holds models, the registry's files, caches and mount points; children
end with the stage, and whatever is still mounted below the directory is detached.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from fuse.mount import MountError as FuseMountError
from fuse.mount import unmount
from snapshotter.artifact.layers import archives
from snapshotter.bench import models
from snapshotter.bench.errors import BenchError
from snapshotter.bench.machine import mounted_below
from snapshotter.bench.node import Node
from snapshotter.bench.origins import DockerRegistry, OwnOrigin, start_registry
from snapshotter.bench.process import Child
from snapshotter.bench.published import (
    Published,
    of_manifest,
    publish,
    publish_hollow,
    publish_sparse,
)
from snapshotter.bench.roundtrip import measure_round_trip
from snapshotter.bench.settings import GIB, Settings
from snapshotter.config import parse_config
from snapshotter.images.resolve import resolve_model
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

_T = TypeVar("_T")
_SPARE = 2 * GIB
_SHARDS = 4
_LAYERS, _HIDDEN = 32, 4096


class Stage:
    """From the beginning to the end of a ``with``."""

    def __init__(self, settings: Settings, say: Callable[[str], None] = lambda _: None) -> None:
        self.settings = settings
        self.say = say
        """Told what is being made, for the progress display."""
        self.images: dict[str, Published] = {}
        """Ordinary images of models, by the repository of the model."""
        self._stack = ExitStack()
        self._case = ExitStack()
        self._models: dict[str, Published] = {}
        self._forwarders: dict[tuple[str, float], Child] = {}
        self._registry: DockerRegistry | OwnOrigin | None = None
        self._own: OwnOrigin | None = None
        self._round_trips: dict[str, float] = {}
        self._counter = 0

    def __enter__(self) -> Self:
        parent = self.settings.directory
        self.directory = Path(tempfile.mkdtemp(prefix="modelpack-bench-", dir=parent)).resolve()
        self._stack.callback(self._remove)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Children see why it ends: after Ctrl-C they are not waited for.
        try:
            self._case.__exit__(kind, error, trace)
        finally:
            self._stack.__exit__(kind, error, trace)

    def keep(self, context: AbstractContextManager[_T]) -> _T:
        """Enter ``context`` until the case ends."""
        return self._case.enter_context(context)

    def end_case(self) -> None:
        """Take away what the case kept."""
        self._case.close()

    def abandon(self) -> None:
        """After Ctrl-C: end what the case kept without waiting for whoever waits for bytes."""
        self._case.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)

    def describe_origin(self) -> str:
        """Which program served the bytes."""
        if self.settings.reference:
            return f"the registry of {self.settings.reference}"
        used = (self._registry, self._own)
        names = dict.fromkeys(origin.description for origin in used if origin is not None)
        return " and ".join(names) or "no registry: none was asked for any"

    # Models and where they are

    @property
    def registry(self) -> DockerRegistry | OwnOrigin:
        """What serves the models of the cold cases."""
        if self._registry is None:
            self._registry = start_registry(
                self.settings.registry_program, self.directory / "registry", self._stack
            )
        return self._registry

    @property
    def own(self) -> OwnOrigin:
        """Our own range server, for models that would be tedious to push or too large to have."""
        if self._own is None:
            if isinstance(self._registry, OwnOrigin):
                self._own = self._registry
            else:
                self._own = OwnOrigin(self.directory / "own", self._stack)
        return self._own

    def sharded(self) -> Published:
        """A model of four safetensors shards; or the one of ``--reference``."""
        return self._weights("sharded", lambda at: models.write_sharded(at, self._size, _SHARDS))

    def single(self) -> Published:
        """A model of one safetensors file; or the one of ``--reference``."""
        return self._weights("single", lambda at: models.write_single(at, self._size))

    def gguf(self) -> Published:
        """A model of one GGUF file; or the one of ``--reference``."""
        return self._weights("gguf", lambda at: models.write_gguf_model(at, self._size))

    def many(self, count: int) -> Published:
        """A model of ``count`` small files."""
        name = f"files-{count}"
        if name not in self._models:
            directory = self.directory / "models" / name
            models.write_many(directory, count)
            self._models[name] = publish(directory, name, self.own, self.directory / "builds")
        return self._models[name]

    def sparse(self, size: int) -> Published:
        """A model of zeros that takes no disk."""
        name = f"sparse-{size}"
        if name not in self._models:
            self._models[name] = publish_sparse(size, self.own, self.directory / "models")
        return self._models[name]

    def decoder(self) -> Published:
        """A decoder of 15 GiB in four shards, of zeros that take no disk, smaller where less than
        the usual size was asked for; or the model of ``--reference``."""
        if self.settings.reference:
            return self._foreign()
        if "decoder" not in self._models:
            hidden = _HIDDEN if self._size >= Settings().size else _HIDDEN // 8
            directory = self.directory / "models" / "decoder"
            models.write_hollow(directory, models.decoder(_LAYERS, hidden), _SHARDS)
            self._models["decoder"] = publish_hollow(directory, "decoder", self.own)
        return self._models["decoder"]

    def reference(self, model: Published, rtt: float) -> str:
        """What to mount, so that it is ``rtt`` seconds away."""
        separator = "" if model.tag.startswith("@") else ":"
        return f"{self._address(model, rtt)}/{model.repository}{separator}{model.tag}"

    def url(self, model: Published, digest: str, rtt: float) -> str:
        """For downloaders that know HTTP only."""
        return f"http://{self._address(model, rtt)}/v2/{model.repository}/blobs/{digest}"

    def round_trip(self, model: Published, rtt: float) -> float:
        """Seconds a request for one byte takes on a connection that is open: ``rtt`` and what
        forwarder, registry and client add."""
        if not model.loopback:
            raise BenchError("only round trips to a registry of ours can be measured")
        address = self._address(model, rtt)
        if address not in self._round_trips:
            path = f"/v2/{model.repository}/blobs/{model.largest.digest}"
            self._round_trips[address] = measure_round_trip(address, path)
        return self._round_trips[address]

    def forwarder(self, target: str, rtt: float) -> Child:
        """A forwarder to ``target`` (HOST:PORT); ``ask()`` gives its address and counts."""
        if (target, rtt) not in self._forwarders:
            told = {"target": target, "rtt": rtt, "rate": self.settings.rate}
            child = Child("forwarder", json.dumps(told))
            self._forwarders[target, rtt] = self._stack.enter_context(child)
        return self._forwarders[target, rtt]

    # Places and processes

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory of its own, removed afterwards; nothing waits to be written at the start."""
        self._counter += 1
        directory = self.directory / f"scratch-{self._counter}"
        directory.mkdir()
        os.sync()
        try:
            yield directory
        finally:
            self._take_away(directory)

    @contextmanager
    def node(self, config: Mapping[str, Any] | None = None) -> Iterator[Node]:
        """A node with nothing in its cache; ``config`` rules over what the settings say."""
        with self.scratch() as directory, Node.start(self.config_of(directory, config)) as node:
            yield node

    def config_of(self, directory: Path, config: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The configuration of a node that lives in ``directory``."""
        base = {"root": str(directory / "root"), "state": str(directory / "state")}
        # Hosts of the machine's own configuration have nothing to say of loopback.
        alone: dict[str, Any] = {"registry": {"certs_d": []}}
        if self.settings.reference:
            alone = {}
        merged = _merged(_merged(_merged(alone, self.settings.config), config or {}), base)
        parse_config(merged, "configuration of the benchmark's node")
        return merged

    @property
    def _size(self) -> int:
        return self.settings.size

    def _weights(self, name: str, write: Callable[[Path], None]) -> Published:
        if self.settings.reference:
            return self._foreign()
        if name not in self._models:
            directory = self.directory / "models" / name
            self._check_room(directory)
            self.say(f"making model {name!r}")
            write(directory)
            self.say(f"publishing model {name!r}")
            self._models[name] = publish(directory, name, self.registry, self.directory / "builds")
        return self._models[name]

    def _foreign(self) -> Published:
        if "reference" not in self._models:
            reference = Reference.parse(self.settings.reference)
            config = parse_config(dict(self.settings.config), "--config")
            registry = Registry(config.registry)
            try:
                _, manifest = resolve_model(reference, registry)
            finally:
                registry.close()
            if archives(manifest):
                raise BenchError(
                    f"{reference} has tar layers: give a model of raw layers, whose files can be "
                    "downloaded as they are by the baselines"
                )
            self._models["reference"] = of_manifest(reference, manifest)
        return self._models["reference"]

    def _address(self, model: Published, rtt: float) -> str:
        if not model.loopback or (rtt == 0 and not self.settings.rate):
            return model.registry
        address: str = self.forwarder(model.registry, rtt).ask()["address"]
        return address

    def _check_room(self, directory: Path) -> None:
        parent = directory.parent
        parent.mkdir(exist_ok=True)
        # The model, the registry's copy, and a cache or a download beside them.
        needed = 3 * self._size + _SPARE
        free = shutil.disk_usage(parent).free
        if free < needed:
            raise BenchError(
                f"{parent} has {free >> 20} MiB left, {needed >> 20} are needed: "
                "give a smaller --size or another --directory"
            )

    def _remove(self) -> None:
        self._take_away(self.directory)

    def _take_away(self, directory: Path) -> None:
        """Delete it, but nothing that is mounted there: that may be somebody else's."""
        for point in mounted_below(directory):
            try:
                unmount(point, lazy=True)
            except FuseMountError as error:
                self.say(f"still mounted: {error}")
        if not mounted_below(directory):
            shutil.rmtree(directory, ignore_errors=True)


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables are merged, everything else of ``over`` wins."""
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        if isinstance(known, dict) and isinstance(value, Mapping):
            result[key] = _merged(known, value)
        else:
            result[key] = value
    return result
