from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from pack_models import write_model

from snapshotter.artifact.config import ModelFacts
from snapshotter.artifact.layout import layout
from snapshotter.artifact.manifest import Manifest, parse
from snapshotter.artifact.mediatypes import MODEL_LAYER_TYPES, MODEL_MANIFEST
from snapshotter.pack.build import Built, build
from snapshotter.pack.errors import BuildError, NoBuild, SourceChanged
from snapshotter.pack.record import BuildStore
from snapshotter.registry.reference import Reference

REFERENCE = Reference.parse("r.example/team/llama:v1")

# model-spec schema/config-schema.json: allowed keys and their types; all three parts required.
DESCRIPTOR = {
    **dict.fromkeys(
        ("createdAt", "family", "name", "docURL", "sourceURL", "version", "revision", "vendor",
         "title", "description"),
        str,
    ),
    **dict.fromkeys(("authors", "datasetsURL", "licenses"), list),
}  # fmt: skip
CONFIG = dict.fromkeys(("architecture", "format", "paramSize", "precision", "quantization"), str)


def obey(document: dict[str, Any], schema: dict[str, type]) -> None:
    for key, value in document.items():
        assert isinstance(value, schema[key]), key
        if isinstance(value, list):
            assert all(isinstance(item, str) for item in value)


def check_schema(raw: bytes, layers: int) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(raw)
    assert set(document) == {"descriptor", "config", "modelfs"}
    obey(document["descriptor"], DESCRIPTOR)
    obey(document["config"], CONFIG)
    assert document["descriptor"]["name"]
    assert set(document["modelfs"]) == {"type", "diffIds"}
    assert document["modelfs"]["type"] == "layers"
    assert len(document["modelfs"]["diffIds"]) == layers > 0
    return document


class Counting:
    def __init__(self) -> None:
        self.expected = self.seen = 0

    def total(self, size: int, /) -> None:
        self.expected = size

    def advance(self, size: int, /) -> None:
        self.seen += size


@pytest.fixture
def store(tmp_path: Path) -> BuildStore:
    return BuildStore(tmp_path / "store")


def manifest_of(store: BuildStore) -> Manifest:
    manifest = parse(store.load(REFERENCE).manifest)
    assert isinstance(manifest, Manifest)
    return manifest


def test_config_and_manifest_obey_the_specification(tmp_path: Path, store: BuildStore) -> None:
    built = build(write_model(tmp_path / "m"), REFERENCE, store)
    manifest = manifest_of(store)
    assert manifest.artifact_type == MODEL_MANIFEST
    assert manifest.digest == built.digest
    assert {layer.media_type for layer in manifest.layers} <= set(MODEL_LAYER_TYPES)
    document = check_schema(store.load(REFERENCE).config, len(manifest.layers))
    assert document["descriptor"]["name"] == "llama"
    assert document["config"]["format"] == "safetensors"
    assert document["modelfs"]["diffIds"] == [layer.digest for layer in manifest.layers]
    assert "createdAt" not in document["descriptor"]


def test_layers_come_in_modctls_order(tmp_path: Path, store: BuildStore) -> None:
    built = build(write_model(tmp_path / "m"), REFERENCE, store)
    assert [layer.path for layer in built.layers] == [
        "config.json",
        "empty.json",
        "merges.txt",
        "tokenizer.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "modeling.py",
        "README.md",
        "data/eval.csv",
    ]


@pytest.mark.parametrize("tar", [False, True])
def test_the_same_files_make_the_same_digest_anywhere_and_anytime(
    tmp_path: Path, store: BuildStore, tar: bool
) -> None:
    first = build(write_model(tmp_path / "m"), REFERENCE, store, tar=tar)
    shutil.copytree(tmp_path / "m", tmp_path / "elsewhere" / "copy")
    for file in (tmp_path / "elsewhere" / "copy").rglob("*"):
        os.utime(file, (1, 1))
        if file.is_file():
            file.chmod(0o600)
    second = build(tmp_path / "elsewhere" / "copy", REFERENCE, store, tar=tar)
    assert second.digest == first.digest


def test_a_creation_time_is_written_only_when_it_is_given(
    tmp_path: Path, store: BuildStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_model(tmp_path / "m")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert build(directory, REFERENCE, store).facts.created == "2023-11-14T22:13:20Z"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(BuildError, match="SOURCE_DATE_EPOCH"):
        build(directory, REFERENCE, store)


def test_facts_given_are_written(tmp_path: Path, store: BuildStore) -> None:
    facts = ModelFacts(
        name="My Llama", family="x", version="1", title="T", vendor="V", description="D",
        authors=("A",), licenses=("MIT",), created="2024-01-01T00:00:00Z", doc_url="https://d",
        source_url="https://s", revision="r", architecture="rnn", format="f", param_size="1b",
        precision="p", quantization="q",
    )  # fmt: skip
    build(write_model(tmp_path / "m"), REFERENCE, store, facts=facts)
    document = check_schema(store.load(REFERENCE).config, 9)
    assert document["descriptor"]["name"] == "My Llama"
    assert document["descriptor"]["licenses"] == ["MIT"]
    assert document["config"]["precision"] == "p"


@pytest.mark.parametrize("tar", [False, True])
def test_our_own_reader_finds_every_file(tmp_path: Path, store: BuildStore, tar: bool) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "run.sh").touch(0o755)
    built = build(directory, REFERENCE, store, tar=tar)
    expected = {str(p.relative_to(directory)) for p in directory.rglob("*") if p.is_file()}
    assert {layer.path for layer in built.layers} == expected
    if tar:
        assert all(layer.media_type.endswith(".tar") for layer in built.layers)
        return
    found = layout(manifest_of(store), {})
    assert {file.path for file in found.files} == expected
    modes = {file.path: file.mode for file in found.files}
    assert modes["run.sh"] & 0o111
    assert not modes["README.md"] & 0o111


def test_a_tar_layer_is_a_tar_of_its_file(tmp_path: Path, store: BuildStore) -> None:
    directory = write_model(tmp_path / "m")
    deep = "a-directory-with-quite-a-long-name/" * 4 + "ünïcode.safetensors"
    (directory / deep).parent.mkdir(parents=True)
    (directory / deep).write_bytes(b"w" * 1000)
    build(directory, REFERENCE, store, tar=True)
    record = store.load(REFERENCE)
    names = []
    for blob in record.blobs:
        content = b"".join(blob.pieces())
        assert len(content) == blob.size
        assert f"sha256:{hashlib.sha256(content).hexdigest()}" == blob.digest
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            (member,) = archive.getmembers()
            file = archive.extractfile(member)
            assert file is not None
            assert file.read() == (directory / member.name).read_bytes()
            assert (member.mode, member.uid, member.mtime) == (0o644, 0, 0)
            names.append(member.name)
    assert deep in names


def test_no_bytes_of_the_model_are_copied(tmp_path: Path, store: BuildStore) -> None:
    directory = write_model(tmp_path / "m")
    (directory / "large.safetensors").write_bytes(bytes(5_000_000))
    build(directory, REFERENCE, store)
    kept = [file for file in store.root.rglob("*") if file.is_file()]
    assert len(kept) == 1
    assert kept[0].stat().st_size < 20_000


def test_identical_files_are_one_blob(tmp_path: Path, store: BuildStore) -> None:
    directory = write_model(tmp_path / "m")
    shutil.copy(directory / "tokenizer.json", directory / "again.json")
    built = build(directory, REFERENCE, store)
    assert len(built.layers) == len(store.load(REFERENCE).blobs) + 1


def test_progress_reaches_its_total(tmp_path: Path, store: BuildStore) -> None:
    progress = Counting()
    built = build(write_model(tmp_path / "m"), REFERENCE, store, progress=progress)
    assert progress.seen == progress.expected == built.size


def test_links_out_of_the_directory_are_told(tmp_path: Path, store: BuildStore) -> None:
    directory = write_model(tmp_path / "m")
    assert build(directory, REFERENCE, store).notes == ()
    (tmp_path / "outside.json").write_text("{}")
    (directory / "linked.json").symlink_to(tmp_path / "outside.json")
    (note,) = build(directory, REFERENCE, store).notes
    assert "linked.json" in note


def test_a_directory_without_weights_is_refused(tmp_path: Path, store: BuildStore) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    with pytest.raises(BuildError, match="holds no weights"):
        build(tmp_path / "m", REFERENCE, store)
    assert not store.root.exists()


def test_a_build_under_a_digest_is_refused(tmp_path: Path, store: BuildStore) -> None:
    digest = built_digest(build(write_model(tmp_path / "m"), REFERENCE, store))
    with pytest.raises(BuildError, match="tag"):
        build(tmp_path / "m", digest, store)


def built_digest(built: Built) -> Reference:
    return built.reference.with_digest(built.digest)


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    with pytest.raises(BuildError, match=r"store.*cannot be written"):
        build(write_model(tmp_path / "m"), REFERENCE, BuildStore(tmp_path / "store"))


def test_a_reference_that_was_not_built_says_how(store: BuildStore) -> None:
    with pytest.raises(NoBuild, match=f"modelpack build DIR -t {REFERENCE}"):
        store.load(REFERENCE)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b'{"format": 99}', b'{"reference": "\xff"}']
)
def test_a_damaged_record_is_no_build(tmp_path: Path, store: BuildStore, content: bytes) -> None:
    build(write_model(tmp_path / "m"), REFERENCE, store)
    (file,) = (store.root / "builds").iterdir()
    file.write_bytes(content)
    with pytest.raises(NoBuild, match="build again"):
        store.load(REFERENCE)


def test_a_changed_file_is_noticed_while_it_is_sent(tmp_path: Path, store: BuildStore) -> None:
    directory = write_model(tmp_path / "m")
    file = directory / "model-00001-of-00002.safetensors"
    build(directory, REFERENCE, store)
    status = file.stat()
    (blob,) = [b for b in store.load(REFERENCE).blobs if b.file == str(file)]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, (1, 1))  # the kernel's own clock may be too coarse to tell the two apart
    with pytest.raises(SourceChanged, match=r"model-00001.*build again"):
        blob.check()
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    blob.check()
    with pytest.raises(SourceChanged, match="other content"):
        list(blob.pieces())
    file.unlink()
    with pytest.raises(SourceChanged, match="cannot be read"):
        blob.check()
