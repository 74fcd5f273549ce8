"""The layers of a model that are served, and how the files lie in each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.choice import EVERYTHING
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError, NotAModel
from snapshotter.artifact.manifest import Manifest, is_model
from snapshotter.artifact.mediatypes import (
    NYDUS_BOOTSTRAP,
    Category,
    Encoding,
    LayerType,
    names_archive,
    parse_layer_type,
)
from snapshotter.artifact.metadata import file_metadata, file_name
from snapshotter.artifact.names import basename
from snapshotter.artifact.selection import Selection
from snapshotter.artifact.unnamed import names_by_type

_NO_WEIGHTS = (Category.DOC, Category.CODE, Category.DATASET)
"""What producers call layers that have no weights in them; with others they are less exact."""
_CNAI_CATEGORIES = {
    "org.cnai.model.model": Category.WEIGHT,
    "org.cnai.model.config": Category.WEIGHT_CONFIG,
    "org.cnai.model.readme": Category.DOC,
}


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is served."""

    number: int
    """Its place in the manifest, from 0."""
    descriptor: Descriptor
    type: LayerType
    name: str | None
    """The path its file is to have, or what was packed into its archive. Unchecked."""
    where: str
    """Begins every message about it: ``layer 3 of 7 (sha256:…)``."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A layer whose files have to be looked up in it; for equal layers the first."""

    descriptor: Descriptor
    encoding: Encoding
    number: int
    """The place of the layer in the manifest, from 0."""
    where: str
    single: tuple[str, int] | None
    """Base name and size in bytes of its one file, where the producer says that it has one."""


def layers(manifest: Manifest, warnings: list[str]) -> Iterator[Layer]:
    """What of a manifest is served, in its order; what is unusual goes to ``warnings``.

    Raises :class:`NotAModel`, or :class:`ArtifactError` naming the layer.
    """
    if not is_model(manifest):
        raise NotAModel(
            f"{manifest.digest} is no model: artifact type {str(manifest.artifact_type)[:120]!r}, "
            f"config {manifest.config.media_type[:120]!r}; expected a ModelPack artifact"
        )
    names = names_by_type(manifest.layers)
    for number, descriptor in enumerate(manifest.layers):
        if descriptor.annotations.get(NYDUS_BOOTSTRAP) == "true":
            continue  # metadata nydusify adds behind the model's own layers
        where = f"layer {number + 1} of {len(manifest.layers)} ({descriptor.digest})"
        name = file_name(descriptor.annotations) or names.get(number)
        kind = _layer_type(descriptor, name, where, warnings)
        yield Layer(number, descriptor, kind, name, where)


def left_out(layer: Layer, selection: Selection) -> bool:
    """Whether nothing of ``layer`` is wanted, as far as the manifest tells.

    Of an archive only its category does: it is left out unread where that is one in which
    producers put no weights, unless a pattern with ``!`` might take a file of it back.
    """
    said = layer.type.category
    if layer.type.encoding is Encoding.RAW:
        if layer.name is None:
            return False
        size = layer.descriptor.size
        return not selection.selects(layer.name, category_of(layer.name, size, said))
    if said not in _NO_WEIGHTS or any(text.startswith("!") for text in selection.exclude):
        return False
    return said in selection.exclude_categories or bool(
        selection.categories and said not in selection.categories
    )


def archives(manifest: Manifest, selection: Selection = EVERYTHING) -> tuple[Archive, ...]:
    """The layers whose index :func:`.layout.layout` needs, each digest once.

    Raises :class:`ArtifactError` for whatever the manifest alone tells cannot be
    served, before a byte of a layer was read.
    """
    found: dict[Digest, Archive] = {}
    for layer in layers(manifest, []):
        encoding = layer.type.encoding
        if encoding is Encoding.RAW or left_out(layer, selection):
            continue
        digest = layer.descriptor.digest
        known = found.get(digest)
        if known is not None and known.encoding is not encoding:
            raise ArtifactError(
                f"{layer.where} is {encoding} by its media type, and {known.encoding} as "
                f"layer {known.number + 1}: one blob cannot be both; build the model again"
            )
        if known is None:
            found[digest] = Archive(
                layer.descriptor, encoding, layer.number, layer.where, _single(layer)
            )
    return tuple(found.values())


def _single(layer: Layer) -> tuple[str, int] | None:
    metadata, _ = file_metadata(layer.descriptor.annotations)
    if layer.name is None or metadata.bundle or metadata.typeflag or not metadata.size:
        return None
    return basename(layer.name), metadata.size


def _layer_type(
    descriptor: Descriptor, name: str | None, where: str, warnings: list[str]
) -> LayerType:
    media_type, annotations = descriptor.media_type, descriptor.annotations
    shown = repr(media_type[:160])
    kind = parse_layer_type(media_type)
    if kind is None:
        if name is None:
            raise ArtifactError(
                f"{where} has unknown media type {shown} and no file name: expected one of the "
                "ModelPack layer types, or annotation org.cncf.model.filepath"
            )
        if names_archive(media_type):
            raise ArtifactError(
                f"{where} has unknown media type {shown} of an archive: expected one of the "
                "ModelPack layer types; publish the model with raw or tar layers"
            )
        warnings.append(f"{where}: unknown media type {shown}, served as one raw file")
        kind = LayerType(Category.OTHER, Encoding.RAW)
    if kind.category is Category.OTHER:
        for annotation, category in _CNAI_CATEGORIES.items():
            if annotations.get(annotation) == "true":
                return LayerType(category, kind.encoding)
    return kind
