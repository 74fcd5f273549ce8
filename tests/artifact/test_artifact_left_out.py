"""What of a model is left out, and what that changes of the rest."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence

import pytest
from artifact_samples import (
    CONFIG_RAW,
    DOC_TAR,
    WEIGHT_RAW,
    WEIGHT_TAR,
    archive,
    digest,
    index,
    layer,
    model,
)

from snapshotter.artifact.errors import ArtifactError
from snapshotter.artifact.layers import archives
from snapshotter.artifact.layout import Layout, layout
from snapshotter.artifact.manifest import Manifest
from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.rules import Rules
from snapshotter.artifact.selection import Selection

DOC_RAW = "application/vnd.cncf.model.doc.v1.raw"
FILES = model(
    layer(b"1", "a.safetensors"),
    layer(b"2", "pytorch_model.bin"),
    layer(b"3", "config.json", CONFIG_RAW),
    layer(b"4", "README.md", DOC_RAW),
)


def without(
    manifest: Manifest,
    *patterns: str,
    categories: tuple[Category, ...] = (),
    blobs: Sequence[bytes] = (),
) -> Layout:
    selection = Selection(exclude=patterns, exclude_categories=frozenset(categories))
    by_digest = {digest(blob): blob for blob in blobs}
    indexes = {
        one.descriptor.digest: index(by_digest[one.descriptor.digest])
        for one in archives(manifest, selection)
    }
    return layout(manifest, indexes, selection=selection)


def paths(found: Layout) -> list[str]:
    return [file.path for file in found.files]


def test_what_a_pattern_means_is_left_out_with_its_blob() -> None:
    found = without(FILES, "*.bin")
    assert paths(found) == ["README.md", "a.safetensors", "config.json"]
    assert digest(b"2") not in {blob.digest for blob in found.blobs}
    assert (found.left_out, found.partly) == (1, frozenset())


def test_what_is_of_a_category_is_left_out_unless_it_is_taken_back() -> None:
    assert "README.md" not in paths(without(FILES, categories=(Category.DOC,)))
    assert "README.md" in paths(without(FILES, "!README.md", categories=(Category.DOC,)))


def test_weights_that_are_called_something_else_are_weights() -> None:
    # As KitOps types shards after the first.
    kit = model(layer(b"1", "a-2.safetensors", CONFIG_RAW), layer(b"3", "config.json", CONFIG_RAW))
    assert paths(without(kit, categories=(Category.WEIGHT_CONFIG,))) == ["a-2.safetensors"]
    assert paths(without(kit, categories=(Category.WEIGHT,))) == ["config.json"]


def test_a_model_of_which_everything_is_left_out_is_an_error() -> None:
    with pytest.raises(ArtifactError, match=r"every file of model .* is left out \(exclude '\*'\)"):
        without(FILES, "*")
    data = archive({"a": b"1"})
    with pytest.raises(ArtifactError, match=r"every file of model .*exclude category doc"):
        without(model(layer(data, "a", DOC_TAR)), categories=(Category.DOC,))


def test_an_archive_of_documents_is_left_out_unread() -> None:
    data = archive({"docs/a.md": b"1"})
    manifest = model(layer(b"1", "a.gguf"), layer(data, "docs", DOC_TAR))
    doc = Selection(exclude_categories=frozenset({Category.DOC}))
    assert archives(manifest, doc) == ()
    assert paths(layout(manifest, {}, selection=doc)) == ["a.gguf"]
    taken_back = Selection(exclude=("!a.md",), exclude_categories=frozenset({Category.DOC}))
    assert len(archives(manifest, taken_back)) == 1


def test_an_archive_of_configuration_is_looked_into_for_weights() -> None:
    data = archive({"config.json": b"{}", "b.safetensors": b"w"})
    manifest = model(
        layer(b"1", "a.gguf"),
        layer(data, "config", "application/vnd.cncf.model.weight.config.v1.tar"),
    )
    found = without(manifest, categories=(Category.WEIGHT_CONFIG,), blobs=[data])
    assert paths(found) == ["a.gguf", "b.safetensors"]


def test_a_blob_of_which_a_part_is_left_out_is_said_to_be_wanted_partly() -> None:
    data = archive({"a.bin": b"1", "b.txt": b"2"})
    found = without(model(layer(data, None, WEIGHT_TAR)), "*.bin", blobs=[data])
    assert paths(found) == ["b.txt"]
    assert found.partly == {digest(data)}


def test_of_an_archive_all_of_which_is_left_out_nothing_is_wanted() -> None:
    data = archive({"d/": b"", "d/a.bin": b"1"})
    manifest = model(layer(b"1", "a.gguf"), layer(data, None, WEIGHT_TAR))
    found = without(manifest, "*.bin", blobs=[data])
    assert [blob.digest for blob in found.blobs] == [digest(b"1")]
    assert (found.directories, found.partly) == ((), frozenset())


def test_directories_show_where_something_is_in_them_or_was_never() -> None:
    data = archive(
        {"x/": b"", "x/a.bin": b"1", "y/": b"", "y/a.bin": b"1", "y/b": b"2", "z/": b"",
         "original/": b"", "original/empty/": b"", "o/": b"", "o/e/": b"", "o/a.bin": b"1"}
    )  # fmt: skip
    found = without(model(layer(data, None, WEIGHT_TAR)), "*.bin", "original/", blobs=[data])
    assert found.directories == ("o", "o/e", "y", "z")


def test_the_path_that_counts_is_the_one_that_is_shown() -> None:
    # AIKit's tars lost the directory of their one file, the annotation keeps it.
    data = archive({"model.safetensors": b"1"})
    manifest = model(layer(b"1", "a.gguf"), layer(data, "unet/model.safetensors", WEIGHT_TAR))
    assert paths(without(manifest, "unet/", blobs=[data])) == ["a.gguf"]
    assert len(paths(without(manifest, "/model.safetensors", blobs=[data]))) == 2


def test_what_is_left_out_conflicts_with_nothing_and_may_be_what_is_refused() -> None:
    twice = model(layer(b"1", "a"), layer(b"2", "d/a"), layer(b"3", "d/a"), layer(b"4", "b"))
    assert paths(without(twice, "d/")) == ["a", "b"]
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    data = archive({"a": b"1", "link": link})
    assert paths(without(model(layer(data, None, WEIGHT_TAR)), "link", blobs=[data])) == ["a"]


def test_a_path_that_is_no_path_is_refused_also_where_it_would_be_left_out() -> None:
    data = archive({"../a": b"1", "b": b"2"})
    with pytest.raises(ArtifactError, match="is refused"):
        without(model(layer(data, None, WEIGHT_TAR)), "a", blobs=[data])


def test_a_hard_link_is_shown_though_what_it_leads_to_is_left_out() -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.LNKTYPE, "a.bin"
    data = archive({"a.bin": b"content", "link": link})
    manifest = model(layer(data, None, WEIGHT_TAR))
    found = layout(
        manifest,
        {digest(data): index(data)},
        Rules(allow_links=True),
        Selection(exclude=("a.bin",)),
    )
    (file,) = found.files
    assert (file.path, file.size) == ("link", 7)
    assert data[file.offset : file.offset + 7] == b"content"


def test_nothing_is_different_without_a_choice() -> None:
    assert without(FILES) == layout(FILES, {})
    assert WEIGHT_RAW in {blob.media_type for blob in layout(FILES, {}).blobs}
