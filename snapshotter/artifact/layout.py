"""The files of a model: where each lies in which blob.

Manifest and tar indexes in, files out. Here are the rules for a consumer: what
is refused, what is merged, what is masked. A model that cannot be served whole
is refused with an error; there is no half of a model and no empty one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from snapshotter.artifact.categories import category_of
from snapshotter.artifact.choice import EVERYTHING, describe_choice
from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import Layer, layers, left_out
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.mediatypes import Category, Encoding
from snapshotter.artifact.merge import Merged
from snapshotter.artifact.metadata import file_metadata
from snapshotter.artifact.names import basename, check_path, check_target, strip_parents
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.selection import Selection
from snapshotter.artifact.tar import TarEntry, TarIndex


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
    compressed: bool = False
    """``offset`` counts in what the blob decompresses to."""


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link; only where :class:`.rules.Rules` allow it."""

    path: str
    target: str
    """Relative, and never out of the model: checked by :func:`.names.check_target`."""
    mtime_ns: int
    digest: Digest
    layer: int


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A file or a link of an archive that is not wanted."""

    path: str


@dataclass(frozen=True, slots=True)
class Layout:
    files: tuple[File, ...]
    """Sorted by path; at least one."""
    directories: tuple[str, ...]
    """Every directory below the root, sorted; parents are always listed."""
    blobs: tuple[Descriptor, ...]
    """The blobs the files lie in, each once, in the manifest's order."""
    warnings: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    """Sorted by path."""
    left_out: int = 0
    """Files, links and whole archives that are not shown because they were not chosen."""
    partly: frozenset[Digest] = frozenset()
    """Of :attr:`blobs` those that also have files which were left out."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


def layout(
    manifest: Manifest,
    tar_indexes: Mapping[Digest, TarIndex],
    rules: Rules = STRICT,
    selection: Selection = EVERYTHING,
) -> Layout:
    """The files of the model ``manifest`` describes, as far as they are chosen.

    ``tar_indexes`` has an index for each of :func:`.layers.archives`. What is left out is not
    looked at any further, so it conflicts with nothing. Raises :class:`NotAModel`, or
    :class:`ArtifactError` naming the layer; also when nothing is left.
    """
    warnings: list[str] = []
    tree = Merged()
    blobs: dict[Digest, Descriptor] = {}
    partly: set[Digest] = set()
    for layer in layers(manifest, warnings):
        before, shown = tree.left_out, False
        if selection and left_out(layer, selection):
            tree.leave_out(layer.name or "")
            continue
        if layer.type.encoding is Encoding.RAW:
            tree.add_file(_raw_file(layer, rules, warnings), layer.where)
        else:
            index = tar_indexes.get(layer.descriptor.digest)
            if index is None:
                raise ArtifactError(f"{layer.where}: the headers of this tar were not read")
            for found in _tar_nodes(layer, index, rules, selection):
                if isinstance(found, File):
                    tree.add_file(found, layer.where)
                    shown = True
                elif isinstance(found, Link):
                    tree.add_link(found, layer.where)
                elif isinstance(found, LeftOut):
                    tree.leave_out(found.path)
                else:
                    tree.add_directory(found, layer.where)
        digest = layer.descriptor.digest
        if tree.left_out > before:
            partly.add(digest)
            if not shown:
                continue
        blobs.setdefault(digest, layer.descriptor)
    if not tree.files:
        raise ArtifactError(_nothing(manifest, tree.left_out, selection))
    return Layout(
        files=tuple(sorted(tree.files.values(), key=lambda file: file.path)),
        directories=tuple(tree.shown_directories()),
        blobs=tuple(blobs.values()),
        warnings=tuple(warnings),
        links=tuple(sorted(tree.links.values(), key=lambda link: link.path)),
        left_out=tree.left_out,
        partly=frozenset(partly & blobs.keys()),
    )


def _nothing(manifest: Manifest, left_out: int, selection: Selection) -> str:
    if left_out:
        return (
            f"every file of model {manifest.digest} is left out ({describe_choice(selection)}): "
            "nothing to mount; leave out less: --exclude of modelpack pull and mount, exclude in "
            "[mounts]"
        )
    return (
        f"model {manifest.digest} has no file in its {len(manifest.layers)} layers: "
        "nothing to mount; build and push it again"
    )


def _raw_file(layer: Layer, rules: Rules, warnings: list[str]) -> File:
    descriptor = layer.descriptor
    if layer.name is None:
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
        path=_checked(layer.name, layer, rules),
        size=descriptor.size,
        mode=_mask(metadata.mode or 0),
        mtime_ns=metadata.mtime_ns,
        digest=descriptor.digest,
        offset=0,
        category=layer.type.category,
        layer=layer.number,
    )


def _tar_nodes(
    layer: Layer, index: TarIndex, rules: Rules, selection: Selection
) -> Iterator[File | Link | LeftOut | str]:
    """Files, links, what is left out, and directories as their paths."""
    annotated = _annotated_path(layer, rules)
    others = [entry for entry in index.entries if not entry.is_directory]
    directories = [
        _checked(entry.path, layer, rules) for entry in index.entries if entry.is_directory
    ]
    # AIKit's tars lost the directory of their one file, the annotation keeps it.
    # Where the archive has that very path as a directory, the annotation names
    # the directory (KitOps).
    renamed = (
        annotated is not None
        and len(others) == 1
        and others[0].is_regular
        and basename(others[0].path) == basename(annotated)
        and annotated not in directories
    )
    if not renamed:
        for directory in directories:
            # As if there were a file in it.
            if selection.selects(f"{directory}/.", layer.type.category):
                yield directory
    earlier: dict[str, File] = {}
    for entry in others:
        path = _checked(entry.path, layer, rules)
        path = annotated if renamed and annotated else path
        category = category_of(path, entry.size, layer.type.category)
        wanted = selection.selects(path, category)
        if not wanted:
            yield LeftOut(path)
            if not entry.is_regular:
                continue
        _check_link(entry, layer, rules)
        if entry.symlink:
            target = check_target(path, entry.symlink, layer.where)
            yield Link(path, target, entry.mtime_ns, layer.descriptor.digest, layer.number)
            continue
        file = _tar_file(layer, entry, path, earlier)
        earlier[entry.path] = file
        if wanted:
            yield file


def _tar_file(layer: Layer, entry: TarEntry, path: str, earlier: Mapping[str, File]) -> File:
    size, mode, mtime_ns, offset = entry.size, _mask(entry.mode), entry.mtime_ns, entry.offset
    if entry.hardlink:
        target = earlier.get(entry.hardlink)
        if target is None:
            raise ArtifactError(
                f"{layer.where}: hard link {entry.path[:120]!r} to {entry.hardlink[:120]!r}, "
                "which is no file before it in this layer: refused; build the model again"
            )
        size, mode, mtime_ns, offset = target.size, target.mode, target.mtime_ns, target.offset
    compressed = layer.type.encoding.compressed
    if not compressed and offset + size > layer.descriptor.size:
        raise ArtifactError(
            f"{layer.where}: {entry.path!r} ends at byte {offset + size}, "
            f"the blob at {layer.descriptor.size}"
        )
    return File(
        path=path,
        size=size,
        mode=mode,
        mtime_ns=mtime_ns,
        digest=layer.descriptor.digest,
        offset=offset,
        category=layer.type.category,
        layer=layer.number,
        compressed=compressed,
    )


def _check_link(entry: TarEntry, layer: Layer, rules: Rules) -> None:
    if entry.is_regular or rules.allow_links:
        return
    what, target = (
        ("a hard link", entry.hardlink) if entry.hardlink else ("a symbolic link", entry.symlink)
    )
    raise ArtifactError(
        f"{layer.where}: entry {entry.path[:120]!r} is {what} to {target[:120]!r}: refused unless "
        "allow_links is set in [mounts]; build the model again with regular files"
    )


def _annotated_path(layer: Layer, rules: Rules) -> str | None:
    if layer.name is None:
        return None
    # KitOps names what was packed: a directory, also the whole one.
    name = layer.name.removeprefix("./").removesuffix("/")
    return None if name in ("", ".") else _checked(name, layer, rules)


def _checked(path: str, layer: Layer, rules: Rules) -> str:
    return check_path(strip_parents(path) if rules.strip_parents else path, layer.where)


def _mask(mode: int) -> int:
    return 0o555 if mode & 0o111 else 0o444
