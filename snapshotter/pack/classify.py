"""What a file of a model is for, by its name and size. Pure.

The categories are those of model-spec ``docs/spec.md``; the patterns follow
modctl's ``pkg/modelfile`` in spirit, and whoever reads must not depend on them.
"""

from __future__ import annotations

from snapshotter.artifact.categories import is_weights
from snapshotter.artifact.mediatypes import Category

LAYER_ORDER = (
    Category.WEIGHT_CONFIG,
    Category.WEIGHT,
    Category.CODE,
    Category.DOC,
    Category.DATASET,
)
"""As modctl writes layers: the small files a reader wants first come first."""

_WEIGHTS = (".bin", ".pb", ".keras", ".msgpack")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin", "sentencepiece.bpe.model")
_DATASETS = (".parquet", ".arrow", ".csv", ".tsv", ".tfrecord")
_DOC_NAMES = (
    "readme", "license", "licence", "notice", "copying", "changelog", "citation", "use_policy",
    "model_card", "authors", "contributing", "security",
)  # fmt: skip
_DOCS = (
    ".md", ".rst", ".pdf", ".html", ".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".bib",
)  # fmt: skip
_CODE_NAMES = ("dockerfile", "makefile", "requirements.txt", "modelfile")
_CODE = (
    ".py", ".pyx", ".sh", ".ipynb", ".c", ".cc", ".cpp", ".cu", ".h", ".hpp", ".js", ".ts", ".rs",
    ".go", ".java", ".lua", ".patch", ".so",
)  # fmt: skip


def classify(path: str, size: int) -> Category:
    """``size`` is in bytes. What no rule knows is configuration: readers fetch that first."""
    name = path.rpartition("/")[2].lower()
    if name.endswith(_DATASETS):
        return Category.DATASET
    if is_weights(path, size) or (name.endswith(_WEIGHTS) and name not in _NOT_WEIGHTS):
        return Category.WEIGHT
    if name in _CODE_NAMES or name.endswith(_CODE):
        return Category.CODE
    if name.startswith(_DOC_NAMES) or name.endswith(_DOCS):
        return Category.DOC
    return Category.WEIGHT_CONFIG
