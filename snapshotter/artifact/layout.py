"""The files of a model: where each lies in which blob.

Manifest and tar indexes in, files out. Here are the rules for a consumer: what
is refused, what is merged, what is masked. A model that cannot be served whole
is refused with an error; there is no half of a model and no empty one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

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
from snapshotter.artifact.names import basename, check_path, parents
from snapshotter.artifact.tar import TarIndex

NODE_LIMIT = 250_000
"""Files and directories of one model."""
PATH_BYTES_LIMIT = 64 << 20
"""Characters of all paths of one model, directories included."""

_CNAI_CATEGORIES = {
    "org.cnai.model.model": Category.WEIGHT,
    "org.cnai.model.config": Category.WEIGHT_CONFIG,
    "org.cnai.model.readme": Category.DOC,
}


@dataclass(frozen=True, slots=True)
class File:
    path: str
    """Relative, ``/`` between components, checked by :func:`.names.check_path`."""
    size: int
    mode: int
    """0o444, or 0o555 where any execute bit was set. Owners are for whoever mounts."""
    mtime_ns: int
    digest: Digest
    """Of the blob that holds the bytes."""
    offset: int
    """Of the first byte in that blob; 0 for raw layers, where file and blob are the same."""
    category: Category
    """What the producer says; :func:`.categories.is_weights` knows better."""
    layer: int
    """Place of the layer in the manifest, from 0."""


@dataclass(frozen=True, slots=True)
class Layout:
    files: tuple[File, ...]
    """Sorted by path; at least one."""
    directories: tuple[str, ...]
    """Every directory below the root, sorted; parents are always listed."""
    blobs: tuple[Descriptor, ...]
    """The blobs the files lie in, each once, in the manifest's order."""
    warnings: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer that is served, and how."""

    number: int
    descriptor: Descriptor
    type: LayerType
    where: str
    """Begins every message about it."""


def tar_layers(manifest: Manifest) -> tuple[Descriptor, ...]:
    """The layers whose index :func:`layout` needs, each digest once.

    Raises :class:`ArtifactError` for whatever the manifest alone tells cannot be
    served, before a byte of a layer was read.
    """
    found = {
        layer.descriptor.digest: layer.descriptor
        for layer in _layers(manifest, [])
        if layer.type.encoding is Encoding.TAR
    }
    return tuple(found.values())


def layer_name(manifest: Manifest, layer: Descriptor) -> str:
    """How messages call a layer: ``layer 3 of 7 (sha256:…)``."""
    number = next(n for n, one in enumerate(manifest.layers, 1) if one.digest == layer.digest)
    return f"layer {number} of {len(manifest.layers)} ({layer.digest})"


def layout(manifest: Manifest, tar_indexes: Mapping[Digest, TarIndex]) -> Layout:
    """The files of the model ``manifest`` describes.

    ``tar_indexes`` has an index for each of :func:`tar_layers`. Raises
    :class:`NotAModel`, or :class:`ArtifactError` naming the layer.
    """
    warnings: list[str] = []
    tree = _Tree()
    blobs: dict[Digest, Descriptor] = {}
    for layer in _layers(manifest, warnings):
        if layer.type.encoding is Encoding.RAW:
            tree.add_file(_raw_file(layer, warnings), layer.where)
        else:
            index = tar_indexes.get(layer.descriptor.digest)
            if index is None:
                raise ArtifactError(f"{layer.where}: the headers of this tar were not read")
            for found in _tar_files(layer, index):
                if isinstance(found, File):
                    tree.add_file(found, layer.where)
                else:
                    tree.add_directory(found, layer.where)
        blobs.setdefault(layer.descriptor.digest, layer.descriptor)
    if not tree.files:
        raise ArtifactError(
            f"model {manifest.digest} has no file in its {len(manifest.layers)} layers: "
            "nothing to mount; build and push it again"
        )
    return Layout(
        files=tuple(sorted(tree.files.values(), key=lambda file: file.path)),
        directories=tuple(sorted(tree.directories)),
        blobs=tuple(blobs.values()),
        warnings=tuple(warnings),
    )


def _layers(manifest: Manifest, warnings: list[str]) -> Iterator[_Layer]:
    if not is_model(manifest):
        raise NotAModel(
            f"{manifest.digest} is no model: artifact type {str(manifest.artifact_type)[:120]!r}, "
            f"config {manifest.config.media_type[:120]!r}; expected a ModelPack artifact"
        )
    for number, descriptor in enumerate(manifest.layers):
        if descriptor.annotations.get(NYDUS_BOOTSTRAP) == "true":
            continue  # metadata nydusify adds behind the model's own layers
        where = f"layer {number + 1} of {len(manifest.layers)} ({descriptor.digest})"
        kind = _layer_type(descriptor, where, warnings)
        if kind.encoding.compressed:
            raise ArtifactError(
                f"{where} has media type {descriptor.media_type}: compressed layers cannot be "
                "served yet, uncompressed ones (.raw or .tar) are needed; "
                "publish the model without compression"
            )
        yield _Layer(number, descriptor, kind, where)


def _layer_type(descriptor: Descriptor, where: str, warnings: list[str]) -> LayerType:
    media_type, annotations = descriptor.media_type, descriptor.annotations
    shown = repr(media_type[:160])
    kind = parse_layer_type(media_type)
    if kind is None:
        if file_name(annotations) is None:
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


def _raw_file(layer: _Layer, warnings: list[str]) -> File:
    descriptor = layer.descriptor
    name = file_name(descriptor.annotations)
    if name is None:
        raise ArtifactError(
            f"{layer.where} has no file name: expected annotation org.cncf.model.filepath; "
            "build the model again with it"
        )
    metadata, warning = file_metadata(descriptor.annotations)
    if warning is not None:
        warnings.append(f"{layer.where}: {warning}")
    if metadata.size is not None and metadata.size != descriptor.size:
        warnings.append(
            f"{layer.where}: annotated with size {metadata.size}, the blob has {descriptor.size}"
        )
    if metadata.typeflag:
        warnings.append(
            f"{layer.where}: annotated with typeflag {metadata.typeflag}, served as a regular file"
        )
    return File(
        path=check_path(name, layer.where),
        size=descriptor.size,
        mode=_mask(metadata.mode or 0),
        mtime_ns=metadata.mtime_ns,
        digest=descriptor.digest,
        offset=0,
        category=layer.type.category,
        layer=layer.number,
    )


def _tar_files(layer: _Layer, index: TarIndex) -> Iterator[File | str]:
    """Files, and directories as their paths."""
    annotated = _annotated_path(layer)
    regular = [entry for entry in index.entries if not entry.is_directory]
    directories = [entry.path for entry in index.entries if entry.is_directory]
    # AIKit's tars lost the directory of their one file, the annotation keeps it.
    # Where the archive has that very path as a directory, the annotation names
    # the directory (KitOps).
    renamed = (
        annotated is not None
        and len(regular) == 1
        and basename(regular[0].path) == basename(annotated)
        and annotated not in directories
    )
    if not renamed:
        yield from directories
    for entry in regular:
        if entry.offset + entry.size > layer.descriptor.size:
            raise ArtifactError(
                f"{layer.where}: {entry.path!r} ends at byte {entry.offset + entry.size}, "
                f"the blob at {layer.descriptor.size}"
            )
        yield File(
            path=annotated if renamed and annotated is not None else entry.path,
            size=entry.size,
            mode=_mask(entry.mode),
            mtime_ns=entry.mtime_ns,
            digest=layer.descriptor.digest,
            offset=entry.offset,
            category=layer.type.category,
            layer=layer.number,
        )


def _annotated_path(layer: _Layer) -> str | None:
    name = file_name(layer.descriptor.annotations)
    if name is None:
        return None
    # KitOps names what was packed: a directory, also the whole one.
    name = name.removeprefix("./").removesuffix("/")
    return None if name in ("", ".") else check_path(name, layer.where)


def _mask(mode: int) -> int:
    return 0o555 if mode & 0o111 else 0o444


@dataclass(slots=True)
class _Tree:
    """Files and directories so far, free of conflicts."""

    files: dict[str, File] = field(default_factory=dict)
    directories: dict[str, str] = field(default_factory=dict)
    """Path to the layer that needs it."""
    path_bytes: int = 0

    def add_file(self, file: File, where: str) -> None:
        known = self.files.get(file.path)
        if known is not None:
            if _same_content(known, file):
                return
            raise ArtifactError(
                f"{where} has {file.path!r} with other content than layer {known.layer + 1} "
                f"({known.digest}): one path must be one file; build the model again"
            )
        if file.path in self.directories:
            raise _conflict(file.path, where, self.directories[file.path])
        self._count(file.path, where)
        for parent in parents(file.path):
            self.add_directory(parent, where)
        self.files[file.path] = file

    def add_directory(self, path: str, where: str) -> None:
        while path and path not in self.directories:
            known = self.files.get(path)
            if known is not None:
                raise _conflict(path, f"layer {known.layer + 1} ({known.digest})", where)
            self._count(path, where)
            self.directories[path] = where
            path = path.rpartition("/")[0]

    def _count(self, path: str, where: str) -> None:
        self.path_bytes += len(path)
        if len(self.files) + len(self.directories) >= NODE_LIMIT:
            raise ArtifactError(f"{where}: the model has more than {NODE_LIMIT} files")
        if self.path_bytes > PATH_BYTES_LIMIT:
            raise ArtifactError(f"{where}: the model's paths take over {PATH_BYTES_LIMIT} bytes")


def _same_content(one: File, other: File) -> bool:
    if one.size != other.size:
        return False
    return one.size == 0 or (one.digest, one.offset) == (other.digest, other.offset)


def _conflict(path: str, as_file: str, as_directory: str) -> ArtifactError:
    return ArtifactError(
        f"{path!r} is a file in {as_file} and a directory in {as_directory}: "
        "build the model again with one of them"
    )
