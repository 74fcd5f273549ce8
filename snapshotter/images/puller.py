"""Makes a model known to containerd without containerd fetching it.

Writes what a pull would have left behind, under a lease so that garbage
collection cannot take half of it: either the model's own manifest and config
("direct", for image volumes of containerd >= 2.1 and for docker by digest) or
the stub image ("stub", for every other client).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from snapshotter.artifact.choice import EVERYTHING, describe_choice
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import layers, left_out
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.marker import ModelRef
from snapshotter.artifact.selection import Selection
from snapshotter.images.containerd import Containerd, Image
from snapshotter.images.direct import DOCKER_NAMESPACE
from snapshotter.images.errors import ImageError
from snapshotter.images.platform import host_platform
from snapshotter.images.resolve import resolve_model
from snapshotter.images.stub import stub_image
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference

Form = Literal["auto", "direct", "stub"]

DIRECT_SINCE = (2, 1)
"""The first containerd whose transfer service has ``layer_types``."""
_CRI_NAMESPACE = "k8s.io"
_CONFIG_LIMIT = 8 << 20


@dataclass(frozen=True, slots=True)
class Pulled:
    """What `modelpack pull` made known."""

    name: str
    """Of the image record."""
    model: ModelRef
    form: Literal["direct", "stub"]
    target: Digest
    """What the record points at: the model's manifest, or the stub's."""
    size: int
    """Bytes of the model that a mount can read."""


@dataclass(frozen=True, slots=True)
class _Content:
    descriptor: Descriptor
    data: bytes
    labels: Mapping[str, str]


def pull(
    reference: Reference,
    registry: Registry,
    containerd: Containerd,
    *,
    namespace: str = "default",
    form: Form = "auto",
    selection: Selection = EVERYTHING,
) -> Pulled:
    """Idempotent: what is there stays, what garbage collection removed comes back.

    With a ``selection`` only a stub can tell what is shown, so it is :class:`ImageError` where
    the client needs the model's own manifest; :class:`ArtifactError` when nothing is left.
    """
    model, manifest = resolve_model(reference, registry)
    model = replace(model, selection=selection)
    size = _readable(manifest, selection)
    chosen = form if form != "auto" else _suited(reference, namespace, containerd, selection)
    if chosen == "direct" and selection:
        raise ImageError(
            f"{reference}: files can be left out of a stub image only, and this client asks for "
            "the model's own manifest: pull it by tag or with --as stub, or set exclude in "
            "[mounts] of the node's configuration"
        )
    if chosen == "direct":
        contents = _model_contents(model, manifest, reference, registry)
    else:
        contents = _stub_contents(model)
    target = contents[0].descriptor
    # CRI, nerdctl and Docker drop the tag of a name that has a digest too (ParseDockerRef).
    name = str(reference.with_digest(reference.digest) if reference.digest else reference)
    labels = {"io.cri-containerd.image": "managed"} if namespace == _CRI_NAMESPACE else {}
    with containerd.lease(namespace) as lease:
        # Children first: the record and the manifest's labels are what keeps them.
        for content in reversed(contents):
            containerd.write(
                namespace, content.descriptor.digest, content.data, content.labels, lease=lease
            )
        containerd.put_image(namespace, Image(name, target, labels), lease=lease)
    return Pulled(name, model, chosen, target.digest, size)


def _readable(manifest: Manifest, selection: Selection) -> int:
    """Bytes of the layers that are not left out, as far as the manifest tells."""
    if not selection:
        return sum({layer.digest: layer.size for layer in manifest.layers}.values())
    wanted = {
        layer.descriptor.digest: layer.descriptor.size
        for layer in layers(manifest, [])
        if not left_out(layer, selection)
    }
    if not wanted:
        raise ArtifactError(
            f"every file of model {manifest.digest} is left out ({describe_choice(selection)}): "
            "nothing would be shown; leave out less"
        )
    return sum(wanted.values())


def _suited(
    reference: Reference, namespace: str, containerd: Containerd, selection: Selection
) -> Literal["direct", "stub"]:
    if namespace == DOCKER_NAMESPACE:
        return "direct" if reference.digest else "stub"
    if selection:
        return "stub"
    if namespace == _CRI_NAMESPACE and containerd.version() >= DIRECT_SINCE:
        return "direct"
    return "stub"


def _model_contents(
    model: ModelRef, manifest: Manifest, reference: Reference, registry: Registry
) -> Sequence[_Content]:
    config = registry.blob(reference, manifest.config, limit=_CONFIG_LIMIT)
    own = Descriptor(manifest.media_type, manifest.digest, len(manifest.raw))
    return (
        _Content(
            own,
            manifest.raw,
            {"containerd.io/gc.ref.content.config": str(manifest.config.digest)} | _source(model),
        ),
        _Content(manifest.config, config, _source(model)),
    )


def _stub_contents(model: ModelRef) -> Sequence[_Content]:
    stub = stub_image(model, host_platform())
    return (
        _Content(
            stub.manifest,
            stub.manifest_bytes,
            {
                "containerd.io/gc.ref.content.config": stub.config.digest,
                "containerd.io/gc.ref.content.l.0": stub.layer.digest,
            },
        ),
        _Content(stub.config, stub.config_bytes, {}),
        _Content(stub.layer, stub.layer_bytes, {}),
    )


def _source(model: ModelRef) -> dict[str, str]:
    """containerd's own record of where a content can be had (the port is dropped there too)."""
    host = model.registry.partition(":")[0]
    return {f"containerd.io/distribution.source.{host}": model.repository}
