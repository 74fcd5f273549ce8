"""Loads weights with the libraries that model servers use, and says how long that took.

Each is imported only when asked for, and before the clock starts.
"""

from __future__ import annotations

import importlib
import resource
import time
from collections.abc import Callable
from typing import Any

from snapshotter.bench.children.talk import answer_all

_STEP = 4096
"""A page: reading one byte of each is what a later use of the tensor would do."""


def load_file(paths: list[str]) -> int:
    """``safetensors.numpy.load_file``: a copy of every tensor."""
    module = importlib.import_module("safetensors.numpy")
    total = 0
    for path in paths:
        total += sum(tensor.nbytes for tensor in module.load_file(path).values())
    return total


def safe_open(paths: list[str]) -> int:
    """``safetensors.safe_open``: tensor after tensor from a mapping, in the order of names."""
    module = importlib.import_module("safetensors")
    total = 0
    for path in paths:
        with module.safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118  # no mapping, only looks like one
                total += file.get_tensor(name).nbytes
    return total


def gguf(paths: list[str]) -> int:
    """``gguf.GGUFReader``: metadata by small reads of a mapping, then every tensor touched."""
    module = importlib.import_module("gguf")
    numpy = importlib.import_module("numpy")
    total = 0
    for path in paths:
        for tensor in module.GGUFReader(path).tensors:
            flat = tensor.data.reshape(-1).view(numpy.uint8)
            int(flat[::_STEP].sum(dtype=numpy.uint64))
            total += tensor.n_bytes
    return total


def runai(paths: list[str]) -> int:
    """Run:ai's ``SafetensorsStreamer``: all headers, then spans by many threads."""
    module = importlib.import_module("runai_model_streamer")
    total = 0
    with module.SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        for _, tensor in streamer.get_tensors():
            total += tensor.numel() * tensor.element_size()
    return total


LOADERS: dict[str, tuple[Callable[[list[str]], int], tuple[str, ...]]] = {
    "safetensors load_file": (load_file, ("safetensors.numpy", "numpy")),
    "safetensors safe_open": (safe_open, ("safetensors", "numpy")),
    "GGUF reader": (gguf, ("gguf", "numpy")),
    "Run:ai model streamer": (runai, ("runai_model_streamer",)),
}
"""Name, function, and what must be importable."""


def answer(told: dict[str, Any]) -> dict[str, Any]:
    load, modules = LOADERS[told["loader"]]
    if "paths" not in told:
        for module in modules:
            importlib.import_module(module)
        return {"ready": True}
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.monotonic()
    total = load(told["paths"])
    ended = time.monotonic()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "started": started,
        "ended": ended,
        "bytes": total,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
    }


if __name__ == "__main__":
    answer_all(answer)
