from __future__ import annotations

import pytest

from snapshotter.artifact.mediatypes import (
    MODEL_LAYER_TYPES,
    Category,
    Encoding,
    LayerType,
    names_archive,
    parse_layer_type,
)


def test_the_specification_has_twenty_layer_types_and_all_are_recognised() -> None:
    assert len(set(MODEL_LAYER_TYPES)) == 20
    assert "application/vnd.cncf.model.weight.config.v1.tar+zstd" in MODEL_LAYER_TYPES
    parsed = {parse_layer_type(media_type) for media_type in MODEL_LAYER_TYPES}
    assert len(parsed) == 20
    assert None not in parsed


@pytest.mark.parametrize(
    ("media_type", "category", "encoding"),
    [
        ("application/vnd.cnai.model.weight.v1.tar", Category.WEIGHT, Encoding.TAR),
        ("application/vnd.cnai.model.doc.v1.raw", Category.DOC, Encoding.RAW),
        ("application/vnd.cnai.model.layer.v1.tar", Category.OTHER, Encoding.TAR),
        ("application/vnd.cnai.model.layer.v1.tar+gzip", Category.OTHER, Encoding.TAR_GZIP),
        ("application/vnd.oci.image.layer.v1.tar", Category.OTHER, Encoding.TAR),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Category.OTHER, Encoding.TAR_ZSTD),
        ("application/vnd.cncf.model.weight.v1.gguf", Category.WEIGHT, Encoding.RAW),
        ("application/vnd.cncf.model.weight.v1.safetensors", Category.WEIGHT, Encoding.RAW),
        ("application/vnd.docker.ai.gguf.v3", Category.WEIGHT, Encoding.RAW),
        ("application/vnd.docker.ai.license", Category.DOC, Encoding.RAW),
        ("application/vnd.docker.ai.vllm.config.tar", Category.WEIGHT_CONFIG, Encoding.TAR),
        ("application/vnd.docker.ai.dir.tar", Category.OTHER, Encoding.TAR),
    ],
)
def test_types_of_older_and_other_producers_are_recognised(
    media_type: str, category: Category, encoding: Encoding
) -> None:
    assert parse_layer_type(media_type) == LayerType(category, encoding)


@pytest.mark.parametrize(
    "media_type",
    ["", "application/octet-stream", "application/vnd.cncf.model.weight.v2.raw",
     "application/vnd.cncf.model.weight.v1.raw\n", "application/vnd.cncf.model.weights.v1.raw"],
)  # fmt: skip
def test_other_types_are_unknown(media_type: str) -> None:
    assert parse_layer_type(media_type) is None


def test_an_unknown_type_may_still_say_that_it_is_an_archive() -> None:
    for archive in ("application/x-tar", "application/foo.tar+gzip", "application/foo+zstd"):
        assert names_archive(archive), archive
    for plain in ("application/octet-stream", "application/vnd.guitar", "text/x-bazip"):
        assert not names_archive(plain), plain
