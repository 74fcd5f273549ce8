"""Models to measure with: directories as hubs have them, of any size, made in seconds.

Own writers of the two formats, so that a node needs neither safetensors nor numpy for this.
Bytes are random once and then repeated with a shift: nothing here compresses or deduplicates
them, and a GiB is written at the speed of the disk.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.tensors.index import drive
from snapshotter.tensors.safetensors import index_safetensors

_NOISE = 8 << 20
_HIDDEN = 2048
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Tensor:
    """A 16-bit float matrix or vector."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        count = 2
        for dimension in self.shape:
            count *= dimension
        return count


def tensors_of(size: int, prefix: str) -> list[Tensor]:
    """Tensors of about ``size`` bytes altogether, large and tiny ones mixed as in a decoder."""
    hidden = _HIDDEN
    while hidden > 16 and size < 32 * hidden * hidden:
        hidden //= 2
    found: list[Tensor] = []
    total = layer = 0
    while True:
        name = f"{prefix}.layers.{layer:03}"
        for tensor in (
            Tensor(f"{name}.input_layernorm.weight", (hidden,)),
            Tensor(f"{name}.mlp.down_proj.weight", (hidden, 3 * hidden)),
            Tensor(f"{name}.mlp.up_proj.weight", (3 * hidden, hidden)),
            Tensor(f"{name}.self_attn.k_proj.weight", (hidden // 4, hidden)),
            Tensor(f"{name}.self_attn.o_proj.weight", (hidden, hidden)),
        ):
            if total + tensor.size > size and found:
                rest = (size - total) // 2
                return [*found, Tensor(f"{prefix}.rest.weight", (rest,))] if rest else found
            found.append(tensor)
            total += tensor.size
        layer += 1


def write_sharded(directory: Path, size: int, shards: int) -> None:
    """``shards`` safetensors files of equal size, their index and the small files beside them."""
    directory.mkdir(parents=True)
    weight_map: dict[str, str] = {}
    for number in range(1, shards + 1):
        name = f"model-{number:05}-of-{shards:05}.safetensors"
        tensors = tensors_of(size // shards, f"model.{number}")
        write_safetensors(directory / name, tensors)
        weight_map |= {tensor.name: name for tensor in tensors}
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    _write_small_files(directory)


def write_single(directory: Path, size: int) -> None:
    """One safetensors file."""
    directory.mkdir(parents=True)
    write_safetensors(directory / "model.safetensors", tensors_of(size, "model"))
    _write_small_files(directory)


def write_gguf_model(directory: Path, size: int) -> None:
    """One GGUF file."""
    directory.mkdir(parents=True)
    write_gguf(directory / "model-f16.gguf", tensors_of(size, "blk"))


def write_many(directory: Path, count: int) -> None:
    """``count`` small files in directories of up to 100, and the one weight a model must have."""
    directory.mkdir(parents=True)
    for number in range(count - 1):
        parent = directory / f"part-{number // 100:03}"
        parent.mkdir(exist_ok=True)
        (parent / f"{number:05}.json").write_text(json.dumps({"number": number}))
    write_safetensors(directory / "model.safetensors", [Tensor("weight", (256,))])


def write_safetensors(path: Path, tensors: Sequence[Tensor]) -> None:
    """https://huggingface.co/docs/safetensors: length of the header, JSON header, data."""
    offset = 0
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    for tensor in tensors:
        offsets = [offset, offset + tensor.size]
        header[tensor.name] = {"dtype": "F16", "shape": tensor.shape, "data_offsets": offsets}
        offset += tensor.size
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        for piece in _noise(offset):
            file.write(piece)


def read_tensors(path: Path) -> list[tuple[int, int]]:
    """Offset in the file and length of each tensor of a safetensors file, in file order."""
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            file.seek(offset)
            return file.read(length)

        index = drive(index_safetensors(path.stat().st_size, str(path)), read)
    return [(tensor.offset, tensor.size) for tensor in index.tensors if tensor.size]


_GGUF_ALIGNMENT = 32
_GGUF_UINT32, _GGUF_STRING, _GGUF_ARRAY = 4, 8, 9
_GGUF_F16 = 1
_GGUF_TOKENS = 32_000


def write_gguf(path: Path, tensors: Sequence[Tensor]) -> None:
    """GGUF version 3 (ggml's docs/gguf.md), with a vocabulary in the metadata as real ones have."""

    def text(value: str) -> bytes:
        raw = value.encode()
        return struct.pack("<Q", len(raw)) + raw

    tokens = b"".join(text(f"token{number}") for number in range(_GGUF_TOKENS))
    metadata = [
        text("general.architecture") + struct.pack("<I", _GGUF_STRING) + text("llama"),
        text("general.alignment") + struct.pack("<II", _GGUF_UINT32, _GGUF_ALIGNMENT),
        text("tokenizer.ggml.tokens")
        + struct.pack("<IIQ", _GGUF_ARRAY, _GGUF_STRING, _GGUF_TOKENS)
        + tokens,
    ]
    infos: list[bytes] = []
    offset = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        infos.append(
            text(tensor.name)
            + struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)
            + struct.pack("<IQ", _GGUF_F16, offset)
        )
        offset += tensor.size + -tensor.size % _GGUF_ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    head += b"".join((*metadata, *infos))
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % _GGUF_ALIGNMENT))
        for piece in _noise(offset):
            file.write(piece)


def _noise(size: int) -> Iterator[memoryview]:
    """``size`` bytes, others in every call; a few TB until a part of them comes again."""
    noise = os.urandom(_NOISE + _MIB)
    shift = 0
    while size > 0:
        piece = memoryview(noise)[shift : shift + min(_NOISE, size)]
        yield piece
        size -= len(piece)
        shift = (shift + 4097) % _MIB


def _write_small_files(directory: Path) -> None:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "float16",
    }
    (directory / "config.json").write_text(json.dumps(config))
    vocabulary = {f"token{number}": number for number in range(32_000)}
    (directory / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (directory / "README.md").write_text("# A model of random numbers, made to be read\n")
