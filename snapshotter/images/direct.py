"""Image volumes that containerd asks for without a parent: which model is meant?

containerd >= 2.1 with ``layer_types`` set leaves a model's layers unfetched, so an
image volume reaches the snapshotter as ``Prepare`` without a parent. Its key,
``<namespace>/<n>/<state>/image-volumes/<sandbox>/<digest hex>``, carries the digest
of the image's target; containerd itself knows the name that belongs to it. dockerd's
mounts of images come the same way; what was asked for is in their key too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

import structlog

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.images.containerd import Containerd, Image
from snapshotter.images.errors import ContainerdError, ImageError
from snapshotter.images.resolve import model_manifest
from snapshotter.registry.errors import RegistryError
from snapshotter.registry.reference import Reference

log = structlog.get_logger(__name__)

DOCKER_NAMESPACE = "moby"
"""Docker's, unless dockerd is told otherwise."""

_VOLUME_KEY = re.compile(
    r"(?P<namespace>[^/]+)/\d+/.*/image-volumes/[^/]+/(?:sha256:)?(?P<hex>[0-9a-f]{64})"
)

_STORED_KEY = re.compile(r"(?P<namespace>[^/]+)/[0-9]+/(?P<key>.*)", re.DOTALL)

# moby's daemon/volumes_unix.go, registerMountPoints. Docker 28: the container's ID and what was
# given as source, but for what containers have of their own; later all of it in hexadecimal.
_DOCKER_KEY = re.compile(
    r"(?P<namespace>[^/]+)/\d+/[0-9a-f]{64}-(?!(?:init(?:-key)?|parent-view)$)(?P<source>.+)"
)
_DOCKER_HEX_KEY = re.compile(r"(?P<namespace>[^/]+)/\d+/(?P<hex>(?:[0-9a-f]{2})+)")
_DOCKER_MOUNT = re.compile(r"[0-9a-f]{64},src=(?P<source>.+),dst=.+")
_ENDS_WITH_DIGEST = re.compile(r"(?:.*@)?(sha256:[0-9a-f]{64})")


def may_be_image_volume(key: str) -> bool:
    """Whether :func:`find_image_volume` would ask containerd about ``key``. Pure."""
    return _VOLUME_KEY.fullmatch(key) is not None or bool(_docker_mount(key)[1])


def find_image_volume(key: str, containerd: Containerd) -> ModelRef | None:
    """The model that the image volume ``key`` stands for; None when it is no model's.

    Local: asks containerd, never a registry. Raises :class:`ImageError` when it is
    a model that cannot be located, or a mount of Docker's that would show nothing.
    """
    match = _VOLUME_KEY.fullmatch(key)
    if match is not None:
        return _find(match["namespace"], Digest(f"sha256:{match['hex']}"), containerd)
    namespace, source = _docker_mount(key)
    if not source:
        return None
    digest = _docker_target(namespace, source, containerd)
    model = _find(namespace, digest, containerd) if digest else None
    if model is None:
        where = "--docker" if namespace == DOCKER_NAMESPACE else f"--namespace {namespace}"
        raise ImageError(
            f"{source}: the image has no layer to show, and is no model that is known by this "
            f"name in namespace {namespace}; if it is a model, run: "
            f"modelpack pull {where} REGISTRY/NAME@sha256:..."
        )
    return model


def is_looked_at(key: str, containerd: Containerd) -> bool:
    """Whether the snapshot ``key`` without a parent is one of ``ctr images mount``.

    It holds what it mounts by a lease of the same name (``cmd/ctr/commands/images/mount.go``);
    its keys and labels say nothing. Who asks when containerd does not answer is taken for one.
    """
    stored = _STORED_KEY.fullmatch(key)
    if stored is None:
        return False
    try:
        return containerd.has_lease(stored["namespace"], stored["key"])
    except ContainerdError as error:
        log.warning("taken for the mount of an image", snapshot=key, why=str(error))
        return True


def _docker_mount(key: str) -> tuple[str, str]:
    """Namespace and source of a mount of an image by dockerd; empty when the key is another's."""
    match = _DOCKER_KEY.fullmatch(key)
    if match is not None:
        return match["namespace"], match["source"]
    match = _DOCKER_HEX_KEY.fullmatch(key)
    text = bytes.fromhex(match["hex"]).decode(errors="replace") if match else ""
    mount = _DOCKER_MOUNT.fullmatch(text)
    return (match["namespace"], mount["source"]) if match and mount else ("", "")


def _docker_target(namespace: str, source: str, containerd: Containerd) -> Digest | None:
    """The digest that the source of a mount ends with, or that its name has in containerd."""
    digest = _ENDS_WITH_DIGEST.fullmatch(source)
    if digest is not None:
        return Digest(digest[1])
    try:
        name = str(Reference.parse(source))
    except RegistryError:
        return None
    images = containerd.images(namespace, f"name=={json.dumps(name)}")
    return images[0].target.digest if images else None


def _find(namespace: str, digest: Digest, containerd: Containerd) -> ModelRef | None:
    images = containerd.images(namespace, f"target.digest=={digest}")
    raw = containerd.read(namespace, digest)
    if not images or raw is None:
        return None
    manifest = model_manifest(raw, digest, lambda listed: containerd.read(namespace, listed))
    if manifest is None:
        return None
    reference = _locate(images, digest)
    return ModelRef(reference.registry, reference.repository, manifest.digest)


def _locate(images: Sequence[Image], digest: Digest) -> Reference:
    """A name among an image's records that says where it came from.

    CRI keeps further records under the bare image ID, which say nothing.
    """
    for image in images:
        if "/" not in image.name:
            continue
        try:
            return Reference.parse(image.name)
        except RegistryError:
            continue
    raise ImageError(
        f"image {digest}: none of its names in containerd "
        f"({', '.join(image.name for image in images)}) says which registry it came from; "
        "pull it again by its full reference"
    )
