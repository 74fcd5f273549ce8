"""Which files are weights: by name and size, because media types are wrong too often.

KitOps types further shards and adapters ``weight.config``, image layers say
nothing, and one tar may hold weights beside a tokenizer.
"""

from __future__ import annotations

from snapshotter.artifact.mediatypes import Category
from snapshotter.artifact.names import basename

_ALWAYS = (
    ".safetensors", ".gguf", ".ggml", ".ggjt", ".pt", ".pth", ".ckpt", ".onnx", ".onnx_data",
    ".h5", ".tflite", ".dduf", ".mmproj", ".npz", ".nemo", ".engine", ".plan", ".pdparams",
    ".llamafile", ".mlpackage",
)  # fmt: skip
# Names that weights share with small files: training_args.bin, tokenizer.model, special_tokens.
_WHEN_LARGE = (".bin", ".model", ".data", ".msgpack", ".npy", ".pkl", ".weights", ".params")
_NEVER = (
    ".json", ".jsonl", ".txt", ".md", ".py", ".ipynb", ".csv", ".tsv", ".parquet", ".arrow",
    ".yaml", ".yml", ".toml", ".jinja", ".html", ".pdf", ".png", ".jpg", ".jpeg", ".gif", ".svg",
    ".mp4", ".wav", ".tiktoken", ".spm", ".zip", ".gz", ".zst", ".tar", ".so",
)  # fmt: skip
_LARGE = 16 << 20
_HUGE = 64 << 20


def is_weights(path: str, size: int) -> bool:
    """Whether a file holds a model's tensors: read whole and in order, and worth streaming.

    ``size`` is in bytes.
    """
    name = basename(path).lower()
    if name.endswith(_ALWAYS):
        return True
    if name.endswith(_NEVER):
        return False
    return size >= (_LARGE if name.endswith(_WHEN_LARGE) else _HUGE)


def category_of(path: str, size: int, said: Category) -> Category:
    """What a file is for, where the producer's layer type says ``said``.

    Weights are known by name and size wherever they lie; otherwise the producer is believed.
    """
    return Category.WEIGHT if is_weights(path, size) else said
