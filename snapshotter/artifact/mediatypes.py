"""The media types models are published with, and what each says of a layer.

Written from the CNCF ModelPack specification (model-spec, ``docs/spec.md``) and
from what producers really push: its predecessor CNAI, Docker Model Runner's own
format, KitOps' ModelKits, Ollama's, image layer types inside a model artifact. A media
type says how the bytes are packed; what a file is *for* it says badly (see
:mod:`.categories`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER_TAR = "application/vnd.oci.image.layer.v1.tar"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)

MODEL_MANIFEST = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
MODEL_INDEX = "application/vnd.cncf.model.index.v1+json"

MODEL_ARTIFACT_TYPES = frozenset(
    {
        MODEL_MANIFEST,
        "application/vnd.cnai.model.manifest.v1+json",
        "application/vnd.kitops.modelkit.manifest.v1+json",
    }
)
MODEL_CONFIG_TYPES = frozenset(
    {
        MODEL_CONFIG,
        "application/vnd.cnai.model.config.v1+json",
        "application/vnd.docker.ai.model.config.v0.1+json",
        "application/vnd.docker.ai.model.config.v0.2+json",
        "application/vnd.kitops.modelkit.config.v1+json",
    }
)
MODEL_INDEX_TYPES = frozenset({MODEL_INDEX, "application/vnd.kitops.modelkit.index.v1+json"})
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"
"""What ``oras push`` gives an artifact that has no config."""

FILEPATH = "org.cncf.model.filepath"
FILE_METADATA = "org.cncf.model.file.metadata+json"
FILE_UNTESTED = "org.cncf.model.file.mediatype.untested"
FILEPATH_ANNOTATIONS = (
    FILEPATH,
    "org.cnai.model.filepath",
    "org.opencontainers.image.title",
)
"""Where the name of a layer's file is looked for, first found first."""
FILE_METADATA_ANNOTATIONS = (FILE_METADATA, "org.cnai.model.file.metadata+json")
NYDUS_BOOTSTRAP = "containerd.io/snapshot/nydus-bootstrap"


class Category(StrEnum):
    """What the producer says a layer's files are for; the values are the specification's."""

    WEIGHT = "weight"
    WEIGHT_CONFIG = "weight.config"
    DOC = "doc"
    CODE = "code"
    DATASET = "dataset"
    OTHER = "other"
    """Types that do not say."""


class Encoding(StrEnum):
    """How a layer's files lie in its blob; the values are the specification's suffixes."""

    RAW = "raw"
    """The blob is the file."""
    TAR = "tar"
    TAR_GZIP = "tar+gzip"
    TAR_ZSTD = "tar+zstd"

    @property
    def compressed(self) -> bool:
        return self in (Encoding.TAR_GZIP, Encoding.TAR_ZSTD)


@dataclass(frozen=True, slots=True)
class LayerType:
    category: Category
    encoding: Encoding


MODEL_LAYER_TYPES: tuple[str, ...] = tuple(
    f"application/vnd.cncf.model.{category}.v1.{encoding}"
    for category in Category
    if category is not Category.OTHER
    for encoding in Encoding
)
"""The 20 layer types of the specification: what containerd's ``layer_types`` must list."""

_MODEL = re.compile(
    r"application/vnd\.(?:cncf|cnai)\.model\."
    r"(weight|weight\.config|doc|code|dataset)\.v1\.(raw|tar|tar\+gzip|tar\+zstd)"
)
# Types without a category of their own: CNAI before modctl 0.0.2 and image layers.
_ARCHIVE = re.compile(
    r"application/vnd\.(?:cnai\.model\.layer|oci\.image\.layer)\.v1\.(tar|tar\+gzip|tar\+zstd)"
)
_DOCKER_LAYER = re.compile(
    r"application/vnd\.docker\.image\.rootfs\.diff\.(tar|tar\.gzip|tar\.zstd)"
)
_KITOPS = re.compile(
    r"application/vnd\.kitops\.modelkit\."
    r"(model|modelpart|dataset|code|docs)\.v1\.(raw|tar|tar\+gzip|tar\+zstd)"
)
_KITOPS_CATEGORIES = {
    "model": Category.WEIGHT,
    "modelpart": Category.WEIGHT_CONFIG,
    "dataset": Category.DATASET,
    "code": Category.CODE,
    "docs": Category.DOC,
}
_OLLAMA = "application/vnd.ollama.image."
_OTHERS = (
    {
        # Docker's `model package --format cncf`, releases of 2025.
        "application/vnd.cncf.model.weight.v1.gguf": LayerType(Category.WEIGHT, Encoding.RAW),
        "application/vnd.cncf.model.weight.v1.safetensors": LayerType(
            Category.WEIGHT, Encoding.RAW
        ),
    }
    | {
        f"application/vnd.docker.ai.{name}": LayerType(category, encoding)
        for name, category, encoding in (
            ("gguf.v3", Category.WEIGHT, Encoding.RAW),
            ("safetensors", Category.WEIGHT, Encoding.RAW),
            ("dduf", Category.WEIGHT, Encoding.RAW),
            ("mmproj", Category.WEIGHT, Encoding.RAW),
            ("license", Category.DOC, Encoding.RAW),
            ("chat.template.jinja", Category.WEIGHT_CONFIG, Encoding.RAW),
            ("model.file", Category.OTHER, Encoding.RAW),
            ("vllm.config.tar", Category.WEIGHT_CONFIG, Encoding.TAR),
            ("dir.tar", Category.OTHER, Encoding.TAR),
        )
    }
    | {
        f"{_OLLAMA}{name}": LayerType(category, Encoding.RAW)
        for name, category in (
            ("model", Category.WEIGHT),
            ("projector", Category.WEIGHT),
            ("adapter", Category.WEIGHT),
            ("draft", Category.WEIGHT),
            ("template", Category.WEIGHT_CONFIG),
            ("system", Category.WEIGHT_CONFIG),
            ("params", Category.WEIGHT_CONFIG),
            ("messages", Category.WEIGHT_CONFIG),
            ("license", Category.DOC),
        )
    }
)
OLLAMA_WEIGHTS = frozenset(
    kind
    for kind, layer in _OTHERS.items()
    if kind.startswith(_OLLAMA) and layer.category is Category.WEIGHT
)
"""Ollama's manifests are those of ordinary Docker images but for the types of their layers."""
_ARCHIVE_SUFFIX = re.compile(r"(?:[./+-](?:tar|t?gz|gzip|zstd?|xz|bz2|bzip2|lz4|zip|7z|br))+$")


@lru_cache(maxsize=256)
def parse_layer_type(media_type: str) -> LayerType | None:
    """What ``media_type`` says of a model's layer; None when it is not one we know."""
    if match := _MODEL.fullmatch(media_type):
        return LayerType(Category(match[1]), Encoding(match[2]))
    if match := _KITOPS.fullmatch(media_type):
        return LayerType(_KITOPS_CATEGORIES[match[1]], Encoding(match[2]))
    if match := _ARCHIVE.fullmatch(media_type):
        return LayerType(Category.OTHER, Encoding(match[1]))
    if match := _DOCKER_LAYER.fullmatch(media_type):
        return LayerType(Category.OTHER, Encoding(match[1].replace("tar.", "tar+")))
    return _OTHERS.get(media_type)


def says_model(media_type: str) -> bool:
    """Whether a layer of this type is a model's, whatever its manifest says of itself."""
    return media_type in OLLAMA_WEIGHTS or (
        parse_layer_type(media_type) is not None
        and _ARCHIVE.fullmatch(media_type) is None
        and _DOCKER_LAYER.fullmatch(media_type) is None
        and not media_type.startswith(_OLLAMA)
    )


def names_archive(media_type: str) -> bool:
    """Whether an unknown media type says that the blob is an archive or compressed."""
    return _ARCHIVE_SUFFIX.search(media_type) is not None
