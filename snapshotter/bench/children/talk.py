"""The child's side of the conversation: one JSON object a line, asked and answered."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from snapshotter.errors import ModelpackError


def answer_all(answers: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Until the end of input, whatever becomes of the parent; its Ctrl-C is not ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a stray print must not be taken for an answer
    for line in sys.stdin:
        try:
            answer = answers(json.loads(line))
        except (ModelpackError, OSError) as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), file=out, flush=True)
