"""A model directory as the hub has them: a Llama in four float16 shards, with random weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy
from safetensors.numpy import save_file

LAYERS = 16
_LARGEST_SHARD = 1 << 30  # one shard is held in memory while it is made


@dataclass(frozen=True)
class Shape:
    """What determines the size; a Llama has about 480 x hidden^2 bytes in these proportions."""

    hidden: int

    @classmethod
    def of_size(cls, size: int) -> Shape:
        """The model whose weights come closest to ``size`` bytes."""
        return cls(max(8, round(math.sqrt(size / 480) / 8) * 8))

    @property
    def intermediate(self) -> int:
        return self.hidden * 7 // 2

    @property
    def vocabulary(self) -> int:
        return self.hidden * 16

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes in the order of the model's layers."""
        hidden, kv = self.hidden, self.hidden // 4
        yield "model.embed_tokens.weight", (self.vocabulary, hidden)
        for layer in range(LAYERS):
            prefix = f"model.layers.{layer}"
            yield f"{prefix}.input_layernorm.weight", (hidden,)
            yield f"{prefix}.mlp.down_proj.weight", (hidden, self.intermediate)
            yield f"{prefix}.mlp.gate_proj.weight", (self.intermediate, hidden)
            yield f"{prefix}.mlp.up_proj.weight", (self.intermediate, hidden)
            yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
            yield f"{prefix}.self_attn.k_proj.weight", (kv, hidden)
            yield f"{prefix}.self_attn.o_proj.weight", (hidden, hidden)
            yield f"{prefix}.self_attn.q_proj.weight", (hidden, hidden)
            yield f"{prefix}.self_attn.v_proj.weight", (kv, hidden)
        yield "model.norm.weight", (hidden,)
        yield "lm_head.weight", (self.vocabulary, hidden)


def write_model(directory: Path, size: int, *, seed: int = 1) -> None:
    """Write a model with about ``size`` bytes of weights into ``directory``, which is made.

    The same size and seed give the same bytes. A GiB takes about two seconds; memory
    holds one shard at a time.
    """
    directory.mkdir(parents=True)
    shape = Shape.of_size(size)
    tensors = list(shape.tensors())
    total = sum(_bytes(dimensions) for _, dimensions in tensors)
    shards = max(4, math.ceil(total / _LARGEST_SHARD))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(_split(tensors, total, shards), start=1):
        file = f"model-{number:05}-of-{shards:05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        random = numpy.random.Generator(numpy.random.SFC64([seed, number]))
        save_file(
            {
                name: numpy.frombuffer(random.bytes(_bytes(dimensions)), numpy.float16).reshape(
                    dimensions
                )
                for name, dimensions in names.items()
            },
            directory / file,
            {"format": "pt"},
        )
    _write_json(
        directory / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
    _write_small_files(directory, shape)


def _bytes(dimensions: tuple[int, ...]) -> int:
    return 2 * math.prod(dimensions)


def _split(
    tensors: list[tuple[str, tuple[int, ...]]], total: int, shards: int
) -> Iterator[dict[str, tuple[int, ...]]]:
    """Consecutive tensors, about ``total / shards`` bytes each; never fewer than ``shards``."""
    shard: dict[str, tuple[int, ...]] = {}
    before, number = 0, 1
    for name, dimensions in tensors:
        if shard and before >= total * number / shards:
            yield shard
            shard, number = {}, number + 1
        shard[name] = dimensions
        before += _bytes(dimensions)
    yield shard


def _write_small_files(directory: Path, shape: Shape) -> None:
    _write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "bos_token_id": 1,
            "eos_token_id": 2,
            "hidden_act": "silu",
            "hidden_size": shape.hidden,
            "intermediate_size": shape.intermediate,
            "max_position_embeddings": 8192,
            "model_type": "llama",
            "num_attention_heads": 8,
            "num_hidden_layers": LAYERS,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "tie_word_embeddings": False,
            "torch_dtype": "float16",
            "vocab_size": shape.vocabulary,
        },
    )
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.6, "top_p": 0.9},
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"\u2581token{n}" for n in range(3, shape.vocabulary))]
    _write_json(
        directory / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [{"id": n, "content": tokens[n], "special": True} for n in range(3)],
            "model": {
                "type": "BPE",
                "vocab": {token: n for n, token in enumerate(tokens)},
                "merges": [],
            },
        },
    )
    _write_json(
        directory / "tokenizer_config.json",
        {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "LlamaTokenizer"},
    )
    (directory / "README.md").write_text(
        "---\nlicense: apache-2.0\npipeline_tag: text-generation\n---\n\n"
        "# A model of random numbers\n\nMade to measure how fast models are read.\n"
    )


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
