"""Names for layers that have none, as the producer's own tool gives them.

Docker Model Runner named the files of its first format by their types when it unpacked
them (``model.gguf``, or ``model-00001-of-00003.gguf`` where there are several); Ollama
never names a file at all and finds everything by type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from snapshotter.artifact.descriptor import Descriptor
from snapshotter.artifact.metadata import file_name

_SHARDS = {
    "application/vnd.docker.ai.gguf.v3": "model.gguf",
    "application/vnd.docker.ai.safetensors": "model.safetensors",
    "application/vnd.ollama.image.model": "model.gguf",
}
_SINGLE = {
    "application/vnd.docker.ai.dduf": "model.dduf",
    "application/vnd.docker.ai.mmproj": "model.mmproj",
    "application/vnd.docker.ai.chat.template.jinja": "template.jinja",
    "application/vnd.docker.ai.license": "LICENSE",
    "application/vnd.ollama.image.projector": "projector.gguf",
    "application/vnd.ollama.image.adapter": "adapter.gguf",
    "application/vnd.ollama.image.draft": "draft.gguf",
    "application/vnd.ollama.image.template": "template",
    "application/vnd.ollama.image.system": "system",
    "application/vnd.ollama.image.params": "params.json",
    "application/vnd.ollama.image.messages": "messages.json",
    "application/vnd.ollama.image.license": "LICENSE",
}


def names_by_type(layers: Sequence[Descriptor]) -> Mapping[int, str]:
    """Place of a layer without a name to the name its type implies."""
    unnamed = [
        (place, layer.media_type)
        for place, layer in enumerate(layers)
        if file_name(layer.annotations) is None
        and (layer.media_type in _SHARDS or layer.media_type in _SINGLE)
    ]
    totals = Counter(media_type for _, media_type in unnamed)
    seen: Counter[str] = Counter()
    names = {}
    for place, media_type in unnamed:
        seen[media_type] += 1
        name = _SHARDS.get(media_type) or _SINGLE[media_type]
        names[place] = _numbered(name, seen[media_type], totals[media_type], media_type in _SHARDS)
    return names


def _numbered(name: str, number: int, total: int, shard: bool) -> str:
    stem, dot, suffix = name.partition(".")
    if total > 1 and shard:
        return f"{stem}-{number:05}-of-{total:05}{dot}{suffix}"
    return name if number == 1 else f"{stem}-{number}{dot}{suffix}"
