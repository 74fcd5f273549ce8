"""Guesses what a model is from its own files, for the artifact's config."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from snapshotter.artifact.config import ModelFacts
from snapshotter.artifact.mediatypes import Category
from snapshotter.opening import open_resolved
from snapshotter.pack.classify import classify
from snapshotter.pack.walk import SourceFile
from snapshotter.tensors.errors import TensorsError
from snapshotter.tensors.formats import indexer_of
from snapshotter.tensors.ggml import FILE_TYPES
from snapshotter.tensors.index import TensorIndex, drive

_READ_LIMIT = 4 << 20
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "I8": "int8", "U8": "uint8",
}  # fmt: skip
_FORMATS = {
    ".safetensors": "safetensors", ".gguf": "gguf", ".onnx": "onnx", ".onnx_data": "onnx",
    ".bin": "pytorch", ".pt": "pytorch", ".pth": "pytorch", ".ckpt": "pytorch",
    ".h5": "tensorflow", ".keras": "tensorflow", ".pb": "tensorflow", ".tflite": "tflite",
}  # fmt: skip
# What hubs write in lower case, as SPDX License Expressions.
_LICENSES = {
    "apache-2.0": "Apache-2.0", "mit": "MIT", "bsd-3-clause": "BSD-3-Clause",
    "bsd-2-clause": "BSD-2-Clause", "cc-by-4.0": "CC-BY-4.0", "cc-by-sa-4.0": "CC-BY-SA-4.0",
    "cc-by-nc-4.0": "CC-BY-NC-4.0", "cc-by-nc-sa-4.0": "CC-BY-NC-SA-4.0", "cc0-1.0": "CC0-1.0",
    "gpl-3.0": "GPL-3.0-only", "agpl-3.0": "AGPL-3.0-only", "openrail": "", "wtfpl": "WTFPL",
}  # fmt: skip
_LICENSE_LINE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9.-]+)['\"]?[ \t]*$", re.MULTILINE)


def guess(files: Sequence[SourceFile]) -> ModelFacts:
    """Whatever the files say for sure; empty where they do not."""
    by_path = {file.path: file for file in files}
    weights = [f for f in files if classify(f.path, f.size) is Category.WEIGHT]
    facts = ModelFacts(format=_format(weights))
    if facts.format == "gguf":
        facts = _of_gguf(facts, next(f for f in weights if f.path.lower().endswith(".gguf")))
    facts = _of_config(facts, _read_json(by_path.get("config.json")))
    if facts.format == "safetensors":
        facts = _of_safetensors(facts, weights)
    license_id = _license(by_path.get("README.md"))
    return replace(facts, licenses=(license_id,)) if license_id else facts


def override(guessed: ModelFacts, given: ModelFacts) -> ModelFacts:
    """What is given rules; what is not given stays as guessed."""
    said = {f.name: value for f in fields(given) if (value := getattr(given, f.name))}
    return replace(guessed, **said)


def format_parameters(count: int) -> str:
    """``8_030_261_248`` -> ``"8b"``, ``494_000_000`` -> ``"494m"``; model-spec: "8b", "16b"."""
    for unit, size in (("t", 10**12), ("b", 10**9), ("m", 10**6), ("k", 10**3)):
        if count >= size:
            number = count / size
            return (f"{number:.0f}" if number >= 100 else f"{number:.1f}".removesuffix(".0")) + unit
    return str(count)


def _format(weights: Sequence[SourceFile]) -> str:
    sizes: Counter[str] = Counter()
    for file in weights:
        for suffix, name in _FORMATS.items():
            if file.path.lower().endswith(suffix):
                sizes[name] += file.size + 1
    return sizes.most_common(1)[0][0] if sizes else ""


def _of_gguf(facts: ModelFacts, file: SourceFile) -> ModelFacts:
    index = _tensors(file)
    said = index.metadata if index else {}
    family = _text(said, "general.architecture")
    file_type = said.get("general.file_type")
    return replace(
        facts,
        family=family,
        title=_text(said, "general.name"),
        architecture="transformer" if f"{family}.attention.head_count" in said else "",
        param_size=_text(said, "general.size_label").lower(),
        quantization=FILE_TYPES.get(file_type, "") if isinstance(file_type, int) else "",
    )


def _of_config(facts: ModelFacts, config: dict[str, Any]) -> ModelFacts:
    inner = config.get("text_config")  # multimodal models nest the language model's
    both = {**(inner if isinstance(inner, dict) else {}), **config}
    quantized = config.get("quantization_config")
    method = _text(quantized, "quant_method") if isinstance(quantized, dict) else ""
    attention = "num_attention_heads" in both or "n_head" in both
    return replace(
        facts,
        family=_text(config, "model_type") or facts.family,
        architecture="transformer" if attention else facts.architecture,
        precision=_text(both, "dtype") or _text(both, "torch_dtype") or facts.precision,
        quantization=method or facts.quantization,
    )


def _of_safetensors(facts: ModelFacts, weights: Sequence[SourceFile]) -> ModelFacts:
    counts: Counter[str] = Counter()
    for file in weights:
        index = _tensors(file) if file.path.lower().endswith(".safetensors") else None
        for tensor in index.tensors if index else ():
            counts[tensor.dtype] += tensor.parameters
    if not counts:
        return facts
    precision = facts.precision or _DTYPES.get(counts.most_common(1)[0][0], "")
    # Quantised weights are packed several to a number, so counting tells nothing.
    size = "" if facts.quantization else format_parameters(counts.total())
    return replace(facts, precision=precision, param_size=size)


def _tensors(file: SourceFile) -> TensorIndex | None:
    """None where the file does not say: facts are guesses, a broken file is pushed as it is."""
    indexer = indexer_of(file.path)
    if indexer is None:
        return None
    try:
        with open_resolved(file.source) as source:

            def read(offset: int, length: int) -> bytes:
                source.seek(offset)
                return source.read(length)

            return drive(indexer(file.size, file.path), read)
    except (OSError, TensorsError):
        return None


def _license(readme: SourceFile | None) -> str:
    text = _read(readme)
    if not text.startswith(b"---"):
        return ""
    front = text.split(b"\n---", 1)[0].decode("utf-8", "replace")
    match = _LICENSE_LINE.search(front)
    return _LICENSES.get(match[1].lower(), "") if match else ""


def _read_json(file: SourceFile | None) -> dict[str, Any]:
    try:
        document = json.loads(_read(file))
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _read(file: SourceFile | None) -> bytes:
    if file is None or file.size > _READ_LIMIT:
        return b""
    try:
        with open_resolved(file.source) as source:
            return source.read(_READ_LIMIT)
    except OSError:
        return b""  # hashing reads every file and tells about it


def _text(table: Any, key: str) -> str:
    value = table.get(key)
    # JSON can carry lone surrogates, which no registry takes.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
