"""A containerd of this node as the baseline: pull an ordinary image of the same files, then read.

Spoken to by its own ``ctr``, in a namespace of its own, which is emptied afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from snapshotter.artifact.digest import digest_of
from snapshotter.artifact.mediatypes import OCI_MANIFEST
from snapshotter.bench.case import Contender, Sample
from snapshotter.bench.children.calls import NAMESPACE
from snapshotter.bench.contenders import sample_of
from snapshotter.bench.errors import BenchError, Unavailable
from snapshotter.bench.machine import mounted_below
from snapshotter.bench.published import Published, PublishedFile
from snapshotter.bench.reading import Job, read
from snapshotter.bench.stage import Stage
from snapshotter.images.platform import host_platform
from snapshotter.pack.build import build
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference

ORDINARY = "overlayfs"
_USUAL = "/run/containerd/containerd.sock"
_SECONDS = 1800
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"


@dataclass(frozen=True, slots=True)
class Ctr:
    """containerd's command line client."""

    address: str
    version: str
    has_local: bool = False
    """Whether its client can pull by itself, rather than by the transfer service."""

    def __call__(self, *arguments: str) -> str:
        """What it printed. Raises :class:`BenchError` with what it complained of last."""
        command = ["ctr", "--address", self.address, "--namespace", NAMESPACE, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise BenchError(f"{' '.join(command)}: {said[-1] if said else done.returncode}")
        return done.stdout

    def lease(self) -> str:
        """A lease that keeps what is made under it until :meth:`leave`."""
        return self("leases", "create").strip()

    def leave(self) -> None:
        """Empty our namespace, whatever was left in it by an end half way, and remove it."""
        if NAMESPACE not in self("namespaces", "ls", "-q").split():
            return
        self.lease()  # one at least, for its deletion brings the garbage collection
        if images := self("images", "ls", "-q").split():
            self("images", "rm", *images)
        self("leases", "delete", "--sync", *self("leases", "ls", "-q").split())
        self("namespaces", "remove", NAMESPACE)


def find_containerd(address: str) -> Ctr:
    """The one at ``address``, else the node's. Raises :class:`Unavailable`."""
    if shutil.which("ctr") is None:
        raise Unavailable(
            "No containerd beside it: ctr is not on PATH; install containerd, or name another "
            "with --containerd ADDRESS and its ctr on PATH."
        )
    address = address or _USUAL
    if not os.access(address, os.W_OK):
        raise Unavailable(
            f"No containerd beside it: none at {address} that we may use; name one with "
            "--containerd ADDRESS."
        )
    said = Ctr(address, "")("version")
    versions = [line.split()[-1] for line in said.splitlines() if "Version:" in line]
    has_local = "--local" in Ctr(address, "")("images", "pull", "--help")
    return Ctr(address, versions[-1] if versions else "unknown", has_local)


def pull_then_read(
    stage: Stage,
    ctr: Ctr,
    snapshotter: str,
    model: Published,
    files: Sequence[PublishedFile],
    job: Job,
    rtt: float,
) -> Contender:
    """``ctr images pull``, ``ctr images mount``, and then ``job``."""

    # containerd's transfer service unpacks for snapshotters of its configuration only.
    local = ["--local"] if snapshotter != ORDINARY and ctr.has_local else []

    def run() -> Sample:
        image = _ordinary_image(stage, model)
        name = stage.reference(image, rtt)
        with stage.scratch() as directory, _forgotten(ctr, name, snapshotter, directory):
            started = time.monotonic()
            ctr("images", "pull", *local, "--plain-http", "--snapshotter", snapshotter, name)
            ctr("images", "mount", "--snapshotter", snapshotter, name, str(directory))
            pulled = time.monotonic() - started
            reading = read([directory / file.path for file in files], job)
        return sample_of(reading, reading.started - pulled, download_seconds=pulled)

    return Contender(
        f"containerd {snapshotter}",
        f"containerd {ctr.version}: {' '.join(['ctr images pull', *local])} and mount of an "
        "ordinary image with the same "
        "files, one uncompressed layer each; then the same reads",
        run,
    )


@contextmanager
def visiting(ctr: Ctr) -> Iterator[None]:
    """Afterwards nothing of ours is left in that containerd."""
    try:
        yield
    finally:
        ctr.leave()


@contextmanager
def _forgotten(ctr: Ctr, name: str, snapshotter: str, directory: Path) -> Iterator[None]:
    """Afterwards containerd knows nothing of it any more, so the next pull is cold."""
    try:
        yield
    finally:
        if mounted_below(directory):
            ctr("images", "unmount", "--rm", "--snapshotter", snapshotter, str(directory))
        if name in ctr("images", "ls", "-q").split():
            ctr("images", "rm", "--sync", name)


def _ordinary_image(stage: Stage, model: Published) -> Published:
    """The files of ``model`` as an image every snapshotter understands, in the same registry."""
    known = stage.images.get(model.repository)
    if known is not None:
        return known
    if model.source is None:
        raise BenchError(f"{model.repository} has no local copy to make an ordinary image of")
    stage.say("publishing the same files as an ordinary image")
    repository = f"{model.repository}-image"
    reference = Reference(model.registry, repository, model.tag, None)
    store = BuildStore(stage.directory / "builds")
    build(model.source, reference, store, tar=True)
    blobs = list(store.load(reference).blobs)
    config = _config([blob.digest for blob in blobs])
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": _CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {"mediaType": _LAYER_TYPE, "digest": blob.digest, "size": blob.size} for blob in blobs
        ],
    }
    stage.registry.publish(repository, json.dumps(manifest).encode(), config, blobs)
    stage.images[model.repository] = image = Published(
        model.registry, repository, model.tag, model.files, model.source, loopback=True
    )
    return image


def _config(diff_ids: Sequence[str]) -> bytes:
    platform = host_platform()
    return json.dumps(
        {
            "os": platform.os,
            "architecture": platform.architecture,
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    ).encode()
