"""Model directories, small and real."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy
from safetensors.numpy import save_file


def write_model(directory: Path) -> Path:
    """A Llama of two layers' worth of nothing, as hubs lay it out."""
    directory.mkdir(parents=True)
    for number in (1, 2):
        save_file(
            {f"layer.{number}": numpy.full((64, 32), number, numpy.float16)},
            directory / f"model-{number:05}-of-00002.safetensors",
        )
    config = {"model_type": "llama", "num_attention_heads": 4, "torch_dtype": "float16"}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "merges.txt").write_text("a b\n")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Model\n")
    (directory / "modeling.py").write_text("pass\n")
    (directory / "data").mkdir()
    (directory / "data" / "eval.csv").write_text("a,b\n")
    (directory / "empty.json").touch()
    return directory


def write_gguf(path: Path) -> None:
    """Metadata only, with the arrays that must be skipped before the interesting keys."""

    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    tokens = struct.pack("<IQ", 8, 3) + text("a") + text("b") + text("c")
    scores = struct.pack("<IQ", 6, 2) + struct.pack("<2f", 1, 2)
    pairs = [
        text("tokenizer.ggml.tokens") + struct.pack("<I", 9) + tokens,
        text("tokenizer.ggml.scores") + struct.pack("<I", 9) + scores,
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("llama.attention.head_count") + struct.pack("<II", 4, 32),
        text("general.name") + struct.pack("<I", 8) + text("A Llama"),
        text("general.size_label") + struct.pack("<I", 8) + text("8B"),
        text("general.file_type") + struct.pack("<II", 4, 15),
    ]
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, len(pairs)) + b"".join(pairs))
