from __future__ import annotations

import pytest

from snapshotter.artifact.mediatypes import Category
from snapshotter.pack.classify import classify


@pytest.mark.parametrize(
    ("path", "size", "category"),
    [
        ("model-00001-of-00002.safetensors", 10, Category.WEIGHT),
        ("a/b/model.gguf", 10, Category.WEIGHT),
        ("pytorch_model.bin", 10, Category.WEIGHT),
        ("consolidated.00.pth", 10, Category.WEIGHT),
        ("onnx/model.onnx", 10, Category.WEIGHT),
        ("something_huge", 1 << 30, Category.WEIGHT),
        ("training_args.bin", 5000, Category.WEIGHT_CONFIG),
        ("config.json", 10, Category.WEIGHT_CONFIG),
        ("model.safetensors.index.json", 10, Category.WEIGHT_CONFIG),
        ("tokenizer.model", 500_000, Category.WEIGHT_CONFIG),
        ("vocab.txt", 10, Category.WEIGHT_CONFIG),
        ("chat_template.jinja", 10, Category.WEIGHT_CONFIG),
        ("params", 10, Category.WEIGHT_CONFIG),
        ("README.md", 10, Category.DOC),
        ("LICENSE", 10, Category.DOC),
        ("LICENSE.txt", 10, Category.DOC),
        ("assets/curve.png", 10, Category.DOC),
        ("modeling_x.py", 10, Category.CODE),
        ("requirements.txt", 10, Category.CODE),
        ("data/train.parquet", 1 << 30, Category.DATASET),
    ],
)
def test_a_file_is_what_its_name_says(path: str, size: int, category: Category) -> None:
    assert classify(path, size) is category
