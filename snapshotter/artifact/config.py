"""What a model says of itself, for people to read.

Nothing depends on it: some producers write ``{}`` for every model, so this never
fails, and the schema of model-spec ``docs/config.md`` is not enforced on reading.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from snapshotter.artifact.digest import Digest, parse_digest
from snapshotter.artifact.errors import ArtifactError

_TEXT_LIMIT = 1000
_LIST_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Empty where nothing is said. Free of control characters, fit for a terminal."""

    name: str = ""
    family: str = ""
    version: str = ""
    title: str = ""
    vendor: str = ""
    description: str = ""
    authors: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    created: str = ""
    doc_url: str = ""
    source_url: str = ""
    revision: str = ""
    architecture: str = ""
    format: str = ""
    param_size: str = ""
    """As written, e.g. ``8b`` or, by Docker, ``361.82 M``."""
    precision: str = ""
    quantization: str = ""


def model_facts(raw: bytes) -> ModelFacts:
    """Read a config blob of the CNCF, CNAI or Docker type; what cannot be read is left out."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return ModelFacts()
    descriptor, config = _table(document, "descriptor"), _table(document, "config")
    return ModelFacts(
        name=_text(descriptor, "name"),
        family=_text(descriptor, "family"),
        version=_text(descriptor, "version"),
        title=_text(descriptor, "title"),
        vendor=_text(descriptor, "vendor"),
        description=_text(descriptor, "description"),
        authors=_texts(descriptor, "authors"),
        licenses=_texts(descriptor, "licenses"),
        created=_text(descriptor, "createdAt", "created"),
        doc_url=_text(descriptor, "docURL"),
        source_url=_text(descriptor, "sourceURL"),
        revision=_text(descriptor, "revision"),
        architecture=_text(config, "architecture"),
        format=_text(config, "format"),
        param_size=_text(config, "paramSize", "parameters"),
        precision=_text(config, "precision"),
        quantization=_text(config, "quantization"),
    )


def diff_ids(raw: bytes) -> tuple[Digest | None, ...]:
    """What the layers, in their order, hash to when decompressed; None where that is not said.

    ``modelfs.diffIds`` of ModelPack, ``rootfs.diff_ids`` of images. Empty where there is
    no such list, as in many configs.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return ()
    for table, keys in (("modelfs", ("diffIds", "diff_ids")), ("rootfs", ("diff_ids", "diffIds"))):
        for key in keys:
            listed = _table(document, table).get(key)
            if isinstance(listed, list):
                return tuple(_digest(item) for item in listed)
    return ()


def _digest(value: Any) -> Digest | None:
    try:
        return parse_digest(value) if isinstance(value, str) else None
    except ArtifactError:
        return None


def _table(document: Any, key: str) -> dict[str, Any]:
    value = document.get(key) if isinstance(document, dict) else None
    return value if isinstance(value, dict) else {}


def _text(table: dict[str, Any], *keys: str) -> str:
    return next((found for key in keys if (found := _clean(table.get(key)))), "")


def _texts(table: dict[str, Any], key: str) -> tuple[str, ...]:
    value = table.get(key)
    items: Sequence[Any] = value if isinstance(value, list) else [value]
    return tuple(filter(None, map(_clean, items[:_LIST_LIMIT])))


def _clean(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return ""
    text = str(value)[:_TEXT_LIMIT]
    # Cc, Cf, Cs: escape sequences, invisible reordering, lone surrogates.
    return " ".join(
        "".join(
            c if unicodedata.category(c) not in ("Cc", "Cf", "Cs") else " " for c in text
        ).split()
    )
