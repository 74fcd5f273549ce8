"""What the header of a safetensors file says: parameters and their types."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

_HEADER_LIMIT = 100 << 20  # the reference implementation's own


def count_parameters(path: Path) -> Counter[str]:
    """How many numbers of each dtype (``BF16``, ...); empty for what is no safetensors file."""
    counts: Counter[str] = Counter()
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if length > _HEADER_LIMIT:
                return counts
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                counts[str(tensor["dtype"])] += math.prod(map(int, tensor["shape"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Counter()
    return counts
