"""Whatever a manifest, its annotations and its archives say: files inside of the model, or one
error of ours."""

from __future__ import annotations

import base64
import json
import tarfile
import unicodedata

from artifact_samples import (
    CONFIG_RAW,
    DOC_TAR,
    METADATA,
    OCI_INDEX,
    OCI_MANIFEST,
    WEIGHT_TAR,
    archive,
    digest,
    index,
    index_stream,
    layer,
    manifest_bytes,
)
from fuzzing import damaged, documents, examples, is_for_people
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact.chunks import decode_chunks
from snapshotter.artifact.config import diff_ids, model_facts
from snapshotter.artifact.descriptor import Platform
from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import archives
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.manifest import Index, Manifest, choose, parse
from snapshotter.artifact.marker import ModelRef, decode_marker, encode_marker
from snapshotter.artifact.rules import STRICT, Rules
from snapshotter.artifact.tar import TarIndex

LENIENT = Rules(allow_links=True, strip_parents=True)
SAID = {"name": "b", "mode": 420, "uid": 0, "gid": 0, "size": 4, "typeflag": 0}
BUNDLE = archive({"d/": b"", "d/one": b"1" * 600, "d/two": b"2"})
SINGLE = archive({"w.safetensors": b"w" * 700})
MANIFEST = json.loads(
    manifest_bytes(
        [
            layer(b"weights", "a/b", **{METADATA: json.dumps(SAID)}),
            layer(b"{}", "config.json", CONFIG_RAW),
            layer(SINGLE, "x/w.safetensors", WEIGHT_TAR),
            layer(BUNDLE, None, DOC_TAR),
            layer(b"weights", "another"),
        ]
    )
)
ENTRY = {
    "mediaType": OCI_MANIFEST,
    "digest": digest(b"m"),
    "size": 1,
    "platform": {"os": "linux", "architecture": "amd64"},
}
INDEX = {
    "schemaVersion": 2,
    "mediaType": OCI_INDEX,
    "manifests": [ENTRY, ENTRY | {"platform": {"os": "linux", "architecture": "arm64"}}],
}
CONFIG = {
    "descriptor": {"name": "m", "authors": ["a"], "createdAt": "2025-01-01T00:00:00Z"},
    "config": {"format": "gguf", "paramSize": "8b", "capabilities": {"reasoning": True}},
    "modelfs": {"type": "layers", "diffIds": [digest(b"1")]},
}
LINKS = tarfile.TarInfo()
LINKS.type, LINKS.linkname = tarfile.SYMTYPE, "d/one"
ARCHIVES = [
    archive({"d/": b"", "d/" + "n" * 200: b"x" * 600, "b": b"y" * 3000, "l": LINKS}, form)
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT)
    if form != tarfile.USTAR_FORMAT
] + [BUNDLE, SINGLE]
CHUNKS = {
    "version": 1,
    "subject": parse(manifest_bytes([layer(b"weights", "a/b")])).digest,
    "algorithm": "sha256",
    "chunkSize": 4 << 20,
    "blobs": [
        {"digest": digest(b"weights"), "size": 7, "chunks": base64.b64encode(b"c" * 32).decode()}
    ],
}
MARKER = json.loads(encode_marker(ModelRef("r.example:5000", "a/b", digest(b"m"))))


def stays_inside(shown: Layout) -> None:
    """What every layout promises, whatever it was made of."""
    files = {file.path for file in shown.files}
    links = {link.path for link in shown.links}
    assert files or links
    assert len(files) == len(shown.files)
    assert not (files | links) & set(shown.directories)
    for path in (*files, *links, *shown.directories):
        assert all(part not in ("", ".", "..") for part in path.split("/"))
        assert "\0" not in path
        assert len(path.encode()) <= 4096
        assert path.rpartition("/")[0] in ("", *shown.directories)
    for file in shown.files:
        assert file.mode in (0o444, 0o555)
        assert file.offset >= 0
        assert file.size >= 0


@examples(300)
@given(documents(MANIFEST), damaged(*ARCHIVES) | st.sampled_from(ARCHIVES), st.booleans())
def test_any_manifest_shows_files_inside_of_the_model_or_is_refused(
    raw: bytes, content: bytes, lenient: bool
) -> None:
    try:
        read = parse(raw)
        if not isinstance(read, Manifest):
            return
        found = index(content)
        indexes: dict[str, TarIndex] = {one.descriptor.digest: found for one in archives(read)}
        shown = layout(read, indexes, LENIENT if lenient else STRICT)
    except ArtifactError as error:
        is_for_people(error)
        return
    stays_inside(shown)


@examples(300)
@given(damaged(*ARCHIVES))
def test_any_archive_is_the_same_from_disk_and_as_a_stream_or_refused(data: bytes) -> None:
    found: list[TarIndex | None] = []
    for read in (index, index_stream):
        try:
            found.append(read(data))
        except ArtifactError as error:
            is_for_people(error)
            found.append(None)
    whole, streamed = found
    for entries in found:
        for entry in entries.entries if entries else ():
            assert entry.offset >= 0
            assert entry.size >= 0
    if whole is not None and streamed is not None:
        assert whole.entries == streamed.entries


@given(documents(INDEX))
def test_of_any_index_a_manifest_is_chosen_or_it_is_refused(raw: bytes) -> None:
    try:
        read = parse(raw)
        if isinstance(read, Index):
            chosen = choose(read, Platform("linux", "amd64"))
            assert chosen.size >= 0
    except ArtifactError as error:
        is_for_people(error)


@given(documents(CONFIG))
def test_any_config_tells_facts_that_a_terminal_can_take_or_none(raw: bytes) -> None:
    facts = model_facts(raw)
    for text in (facts.name, facts.format, *facts.authors):
        assert len(text) <= 1000
        assert not {unicodedata.category(c) for c in text} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert all(each is None or ":" in each for each in diff_ids(raw))


@given(documents(MARKER))
def test_any_marker_is_read_or_refused(raw: bytes) -> None:
    try:
        model = decode_marker(raw)
    except ArtifactError as error:
        is_for_people(error)
        return
    assert ".." not in (model.registry, *model.repository.split("/"))


@given(documents(CHUNKS))
def test_any_chunk_list_is_read_or_refused(raw: bytes) -> None:
    manifest = parse(manifest_bytes([layer(b"weights", "a/b")]))
    assert isinstance(manifest, Manifest)
    try:
        decode_chunks(raw, manifest)
    except ArtifactError as error:
        is_for_people(error)


def test_the_samples_are_sound() -> None:
    manifest = parse(json.dumps(MANIFEST).encode())
    assert isinstance(manifest, Manifest)
    indexes = {digest(blob): index(blob) for blob in (SINGLE, BUNDLE)}
    assert {file.path for file in layout(manifest, indexes).files} == {
        "a/b", "another", "config.json", "d/one", "d/two", "x/w.safetensors",
    }  # fmt: skip
    assert isinstance(parse(json.dumps(INDEX).encode()), Index)
    assert decode_marker(json.dumps(MARKER).encode()).repository == "a/b"
    of = parse(manifest_bytes([layer(b"weights", "a/b")]))
    assert isinstance(of, Manifest)
    decode_chunks(json.dumps(CHUNKS).encode(), of)
