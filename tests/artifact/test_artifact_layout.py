from __future__ import annotations

import tarfile
from typing import Any

import pytest
from artifact_samples import (
    CONFIG_RAW,
    DOC_TAR,
    METADATA,
    WEIGHT_RAW,
    WEIGHT_TAR,
    archive,
    digest,
    index,
    laid_out,
    layer,
    model,
)
from hypothesis import given
from hypothesis import strategies as st

from snapshotter.artifact import merge as merge_module
from snapshotter.artifact.errors import ArtifactError, NotAModel
from snapshotter.artifact.layers import archives
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.rules import Rules
from snapshotter.artifact.tar import TarEntry, TarIndex

MTIME = '{"name":"a","mode":493,"uid":1000,"size":3,"mtime":"2025-06-01T12:34:56.789012345+08:00"}'


def paths(*layers: dict[str, Any], blobs: tuple[bytes, ...] = ()) -> list[str]:
    return [file.path for file in laid_out(model(*layers), *blobs).files]


def test_a_raw_layer_is_its_file() -> None:
    result = laid_out(model(layer(b"{}", "config.json", CONFIG_RAW), layer(b"abc", "w/a.bin")))
    config, weights = result.files
    assert (config.path, config.category, config.layer) == (
        "config.json",
        Category.WEIGHT_CONFIG,
        0,
    )
    assert (weights.path, weights.size, weights.offset) == ("w/a.bin", 3, 0)
    assert weights.digest == digest(b"abc")
    assert result.directories == ("w",)
    assert [blob.digest for blob in result.blobs] == [digest(b"{}"), digest(b"abc")]
    assert result.size == 5
    assert result.warnings == ()


def test_files_and_directories_are_sorted_and_parents_listed() -> None:
    result = laid_out(model(layer(b"1", "z/y/x"), layer(b"2", "a"), layer(b"3", "z/b")))
    assert [file.path for file in result.files] == ["a", "z/b", "z/y/x"]
    assert result.directories == ("z", "z/y")


@pytest.mark.parametrize(
    "key", ["org.cnai.model.filepath", "org.opencontainers.image.title"]
)  # fmt: skip
def test_older_annotations_name_the_file_too(key: str) -> None:
    assert paths(layer(b"1", None, **{key: "a.bin"})) == ["a.bin"]
    assert paths(layer(b"1", "right", **{key: "wrong"})) == ["right"]


def test_modes_are_masked_and_times_read_from_the_metadata() -> None:
    one, two = laid_out(model(layer(b"abc", "a", **{METADATA: MTIME}), layer(b"abcd", "b"))).files
    assert (one.mode, one.mtime_ns) == (0o555, 1748752496_789012345)
    assert (two.mode, two.mtime_ns) == (0o444, 0)


def test_setuid_and_write_bits_of_a_tar_are_masked() -> None:
    info = tarfile.TarInfo()
    info.mode = 0o6777
    data = archive({"run": info})
    assert laid_out(model(layer(data, None, WEIGHT_TAR)), data).files[0].mode == 0o555


def test_the_descriptor_decides_the_size_and_the_annotation_is_warned_of() -> None:
    result = laid_out(model(layer(b"abcd", "a", **{METADATA: MTIME})))
    assert result.files[0].size == 4
    assert result.warnings[0].startswith("layer 1 of 1 (sha256:")
    assert "annotated with size 3, the blob has 4" in result.warnings[0]


@pytest.mark.parametrize("text", ["{", '{"mode":"rwx"}', '{"name":"a"b"}', "[" * 9999, "7"])
def test_unreadable_metadata_is_ignored_with_a_warning(text: str) -> None:
    result = laid_out(model(layer(b"a", "a", **{METADATA: text})))
    assert "metadata cannot be read" in result.warnings[0]


def test_an_empty_file_is_an_empty_layer() -> None:
    assert laid_out(model(layer(b"", "a"))).files[0].size == 0


def test_one_blob_under_several_paths_is_several_files_and_one_blob() -> None:
    result = laid_out(model(layer(b"x", "a"), layer(b"x", "b")))
    assert [file.path for file in result.files] == ["a", "b"]
    assert len(result.blobs) == 1


def test_the_same_layer_twice_is_one_file() -> None:
    assert paths(layer(b"x", "a"), layer(b"x", "a")) == ["a"]


def test_one_path_with_two_contents_is_an_error_naming_both_layers() -> None:
    with pytest.raises(ArtifactError, match=r"^layer 2 of 2 .*'a' with other content than layer 1"):
        paths(layer(b"x", "a"), layer(b"y", "a"))


@pytest.mark.parametrize("order", [("a", "a/b"), ("a/b", "a"), ("a/b/c", "a")])
def test_a_path_that_is_file_and_directory_is_an_error(order: tuple[str, str]) -> None:
    with pytest.raises(
        ArtifactError, match=r"'a' is a file in layer . .* and a directory in layer"
    ):
        paths(layer(b"x", order[0]), layer(b"y", order[1]))


def test_a_directory_entry_of_a_tar_conflicts_with_a_file_too() -> None:
    data = archive({"a/": b"", "b": b""})
    with pytest.raises(ArtifactError, match="is a file in"):
        paths(layer(b"x", "a"), layer(data, None, DOC_TAR), blobs=(data,))


def test_a_hostile_path_is_refused_naming_the_layer() -> None:
    with pytest.raises(ArtifactError, match=r"layer 2 of 2 \(sha256:\w+\): path '../x' is refused"):
        paths(layer(b"1", "a"), layer(b"2", "../x"))


def test_a_raw_layer_without_a_name_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="has no file name"):
        paths(layer(b"1", None))


def test_a_tar_of_one_file_whose_basename_fits_takes_the_annotations_path() -> None:
    data = archive({"model.gguf": b"weights"})
    file = laid_out(model(layer(data, "deep/down/model.gguf", WEIGHT_TAR)), data).files[0]
    assert file.path == "deep/down/model.gguf"
    assert data[file.offset : file.offset + file.size] == b"weights"


def test_a_tar_of_one_file_with_another_basename_keeps_the_tars_name() -> None:
    data = archive({"README.md": b"x"})
    assert paths(layer(data, "docs", DOC_TAR), blobs=(data,)) == ["README.md"]


def test_a_tar_of_several_files_keeps_the_tars_names() -> None:
    data = archive({"docs/": b"", "docs/a": b"1", "docs/b": b"2"})
    assert paths(layer(data, "elsewhere/a", DOC_TAR), blobs=(data,)) == ["docs/a", "docs/b"]


def test_an_annotation_that_names_a_directory_of_the_tar_renames_nothing() -> None:
    data = archive({"model/": b"", "model/model": b"1"})
    assert paths(layer(data, "model", WEIGHT_TAR), blobs=(data,)) == ["model/model"]


@pytest.mark.parametrize("name", [".", "./", "weights/", None])
def test_a_tar_may_be_annotated_with_the_directory_that_was_packed(name: str | None) -> None:
    data = archive({"weights/a": b"1"})
    assert paths(layer(data, name, WEIGHT_TAR), blobs=(data,)) == ["weights/a"]


def test_a_hostile_annotation_of_a_tar_is_refused() -> None:
    data = archive({"passwd": b"1"})
    with pytest.raises(ArtifactError, match="absolute"):
        paths(layer(data, "/etc/passwd", WEIGHT_TAR), blobs=(data,))


@pytest.mark.parametrize(
    ("name", "why"), [("../a", "component '..'"), ("/a", "absolute"), ("a\0b", "control")]
)
def test_a_hostile_name_in_a_tar_is_refused(name: str, why: str) -> None:
    hostile = TarIndex((TarEntry(name, 512, 0, 0, 0),))
    with pytest.raises(ArtifactError, match=f"^layer 1 of 1 .*is refused: .*{why}"):
        layout(model(layer(b"tar", None, DOC_TAR)), {digest(b"tar"): hostile})


def test_leading_parents_are_stripped_where_that_is_set() -> None:
    data = archive({"../../b": b"2"})
    manifest = model(layer(b"1", "../../w/a"), layer(data, None, DOC_TAR))
    result = laid_out(manifest, data, rules=Rules(strip_parents=True))
    assert [file.path for file in result.files] == ["b", "w/a"]
    for left in ("w/../../a", "..", "../", "../.."):
        with pytest.raises(ArtifactError, match="is refused"):
            laid_out(model(layer(b"1", left)), rules=Rules(strip_parents=True))


def links(*entries: TarEntry, rules: Rules = Rules(allow_links=True)) -> Layout:  # noqa: B008
    return layout(
        model(layer(bytes(5000), None, DOC_TAR)), {digest(bytes(5000)): TarIndex(entries)}, rules
    )


REAL = TarEntry("d/real", 512, 7, 0o755, 5)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_links_are_refused_unless_they_are_allowed(kind: str) -> None:
    link = TarEntry("d/link", 1536, 0, 0o777, 0, **{kind: "d/real"})  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"'d/link' is a .* link to 'd/real': refused unless"):
        links(REAL, link, rules=Rules())
    assert links(REAL, link)


def test_a_hard_link_is_the_file_before_it_in_the_same_layer() -> None:
    link = TarEntry("e/link", 1536, 0, 0o600, 9, hardlink="d/real")
    one, two = links(REAL, link).files
    assert (two.path, two.offset, two.size, two.mode) == ("e/link", one.offset, 7, 0o555)
    with pytest.raises(ArtifactError, match="no file before it in this layer"):
        links(link, REAL)


def test_a_symbolic_link_keeps_its_target() -> None:
    (link,) = links(REAL, TarEntry("d/link", 0, 0, 0, 3, symlink="../d/real")).links
    assert (link.path, link.target, link.mtime_ns) == ("d/link", "../d/real", 3)


@pytest.mark.parametrize("target", ["real", "./real", "..", "../d", "../d/real", "absent"])
def test_a_relative_link_inside_of_the_tree_is_served(target: str) -> None:
    assert links(REAL, TarEntry("d/link", 0, 0, 0, 0, symlink=target)).links


@pytest.mark.parametrize(
    "target", ["/etc/passwd", "../..", "../../x", "real/../../..", "a//b", "a\nb", ".", "x\\y"]
)
def test_a_link_that_could_lead_out_of_the_tree_is_refused(target: str) -> None:
    with pytest.raises(ArtifactError, match=r"^layer 1 of 1 .*link 'd/link' to .* is refused"):
        links(REAL, TarEntry("d/link", 0, 0, 0, 0, symlink=target))


@pytest.mark.parametrize("order", [0, 1])
def test_nothing_lies_behind_a_link(order: int) -> None:
    entries = [TarEntry("l", 0, 0, 0, 0, symlink="d"), TarEntry("l/x", 512, 1, 0, 0)]
    with pytest.raises(ArtifactError, match=r"'l' is a link in .* and a directory in"):
        links(*entries[:: -1 if order else 1], REAL)


def test_a_path_that_is_link_and_file_or_two_links_is_an_error() -> None:
    link = TarEntry("d/real", 0, 0, 0, 0, symlink="x")
    for entries in ((REAL, link), (link, REAL)):
        with pytest.raises(ArtifactError, match=r"is a (file|link) in .* and a (link|file)"):
            links(*entries)
    other = TarEntry("d/real", 0, 0, 0, 0, symlink="y")
    with pytest.raises(ArtifactError, match="one path must be one link"):
        links(TarEntry("f", 0, 0, 0, 0), link, other)
    assert len(links(TarEntry("f", 0, 0, 0, 0), link, link).links) == 1


def test_names_that_differ_in_case_are_two_files() -> None:
    assert paths(layer(b"1", "README"), layer(b"2", "readme")) == ["README", "readme"]


def test_one_blob_cannot_be_two_kinds_of_archive() -> None:
    with pytest.raises(ArtifactError, match=r"layer 2 of 2 .* is tar\+gzip .* and tar as layer 1"):
        archives(model(layer(b"1", "a", DOC_TAR), layer(b"1", "a", DOC_TAR + "+gzip")))


def test_a_layer_that_says_it_is_one_file_is_known_before_it_is_read() -> None:
    def single(text: str | None, name: str | None = "d/a") -> tuple[str, int] | None:
        said = {} if text is None else {METADATA: text}
        (found,) = archives(model(layer(b"1", name, DOC_TAR + "+gzip", **said)))
        return found.single

    assert single('{"name":"a","size":3}') == ("a", 3)
    assert single('{"name":"a","size":3,"files":["x"]}') is None
    assert single('{"name":"a","size":0}') is None
    assert single('{"name":"a","size":3,"typeflag":5}') is None
    assert single('{"name":"a","size":3}', None) is None
    assert single(None) is None


def test_empty_directories_of_a_tar_are_kept() -> None:
    data = archive({"empty/sub/": b"", "a": b""})
    assert laid_out(model(layer(data, None, DOC_TAR)), data).directories == ("empty", "empty/sub")


def test_whiteouts_are_served_as_plain_files_and_hide_nothing() -> None:
    data = archive({"d/.wh.a": b"", "d/a": b"1"})
    assert paths(layer(data, None, DOC_TAR), layer(b"2", "d/.wh.b"), blobs=(data,)) == [
        "d/.wh.a",
        "d/.wh.b",
        "d/a",
    ]


@pytest.mark.parametrize("encoding", ["tar+gzip", "tar+zstd"])
def test_files_of_a_compressed_layer_lie_in_what_it_decompresses_to(encoding: str) -> None:
    data = archive({"big": b"x" * 5000})
    small = layer(b"packed", None, f"application/vnd.cncf.model.doc.v1.{encoding}")
    result = layout(model(small), {digest(b"packed"): index(data)})
    (file,) = result.files
    assert (file.compressed, file.digest, file.size) == (True, digest(b"packed"), 5000)
    assert data[file.offset : file.offset + file.size] == b"x" * 5000


def test_the_bootstrap_layer_of_nydus_is_ignored() -> None:
    bootstrap = layer(
        b"boot",
        None,
        "application/vnd.oci.image.layer.v1.tar+gzip",
        **{"containerd.io/snapshot/nydus-bootstrap": "true"},
    )
    assert paths(layer(b"1", "a"), bootstrap) == ["a"]
    with pytest.raises(ArtifactError, match="has no file"):
        paths(bootstrap)


def test_an_unknown_layer_type_with_a_name_is_raw_with_a_warning() -> None:
    result = laid_out(model(layer(b"1", "a.bin", "application/octet-stream")))
    assert (result.files[0].path, result.files[0].category) == ("a.bin", Category.OTHER)
    assert "unknown media type 'application/octet-stream'" in result.warnings[0]


def test_an_unknown_layer_type_without_a_name_or_of_an_archive_is_an_error() -> None:
    with pytest.raises(ArtifactError, match=r"unknown media type .* no file name"):
        paths(layer(b"1", None, "application/octet-stream"))
    with pytest.raises(ArtifactError, match=r"unknown media type .* of an archive"):
        paths(layer(b"1", "a", "application/x.thing.tar+gzip"))


def test_categories_of_the_oldest_artifacts_come_from_annotations() -> None:
    data = archive({"a": b"1"})
    old = layer(
        data, None, "application/vnd.cnai.model.layer.v1.tar", **{"org.cnai.model.model": "true"}
    )
    assert laid_out(model(old), data).files[0].category is Category.WEIGHT


@pytest.mark.parametrize("data", [None, archive({}), archive({"only/": b""})])
def test_a_model_without_any_file_is_always_an_error(data: bytes | None) -> None:
    layers = [] if data is None else [layer(data, None, DOC_TAR)]
    with pytest.raises(ArtifactError, match=r"has no file in its . layers: nothing to mount"):
        paths(*layers, blobs=(data or b"",))


def test_an_image_is_no_model() -> None:
    config = {
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": digest(b""),
        "size": 0,
    }
    with pytest.raises(NotAModel, match="is no model"):
        layout(model(config=config, artifactType=...), {})


def test_tar_layers_are_listed_once_for_each_digest() -> None:
    data = archive({"a": b"1"})
    manifest = model(layer(data, "a", WEIGHT_TAR), layer(b"1", "b"), layer(data, "c/a", WEIGHT_TAR))
    (only,) = archives(manifest)
    assert (only.descriptor.digest, only.number) == (digest(data), 0)
    assert only.where == f"layer 1 of 3 ({digest(data)})"
    assert [file.path for file in laid_out(manifest, data).files] == ["a", "b", "c/a"]


def test_a_tar_whose_index_is_missing_is_an_error() -> None:
    with pytest.raises(ArtifactError, match="were not read"):
        layout(model(layer(b"", None, DOC_TAR)), {})


def test_an_index_that_reaches_past_its_blob_is_an_error() -> None:
    wrong = TarIndex((TarEntry("a", 512, 1000, 0, 0),))
    with pytest.raises(ArtifactError, match="ends at byte 1512, the blob at 600"):
        layout(model(layer(bytes(600), None, DOC_TAR)), {digest(bytes(600)): wrong})


def test_more_nodes_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "NODE_LIMIT", 10)
    with pytest.raises(ArtifactError, match="more than 10 files"):
        paths(*(layer(b"1", f"d/{n}") for n in range(10)))


def test_more_bytes_of_paths_than_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "PATH_BYTES_LIMIT", 20)
    with pytest.raises(ArtifactError, match="paths take over 20 bytes"):
        paths(layer(b"1", "directory/directory/a"))


NAMES = st.sampled_from(["a", "b", "a/b", "a/b/c", "../a", "/a", "", ".", "a\n", "ü", "x" * 300])
TYPES = st.sampled_from([WEIGHT_RAW, CONFIG_RAW, WEIGHT_TAR, "application/octet-stream"])
ENTRIES = st.builds(
    TarEntry, st.sampled_from(["a", "b", "a/b"]), st.integers(0, 9), st.integers(0, 9),
    st.integers(0, 0o7777), st.integers(), st.booleans(),
    st.sampled_from(["", "", "a", "../x"]), st.sampled_from(["", "", "a"]),
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.binary(max_size=2), NAMES | st.none(), TYPES, st.none() | st.text()),
        max_size=5,
    ),
    st.lists(ENTRIES, max_size=3),
)
def test_any_model_is_laid_out_without_conflict_or_refused(
    layers: list[tuple[bytes, str | None, str, str | None]], entries: list[TarEntry]
) -> None:
    try:
        manifest = model(
            *(
                layer(data, name, media_type, **({} if text is None else {METADATA: text}))
                for data, name, media_type, text in layers
            )
        )
        indexes = {one.descriptor.digest: TarIndex(tuple(entries)) for one in archives(manifest)}
        result = layout(manifest, indexes)
    except ArtifactError:
        return
    files = {file.path for file in result.files}
    assert files
    assert len(files) == len(result.files)
    assert not files & set(result.directories)
    for path in (*files, *result.directories):
        assert path.rpartition("/")[0] in ("", *result.directories)
    assert all(file.mode in (0o444, 0o555) for file in result.files)
