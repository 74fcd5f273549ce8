"""The whole daemon in a process of its own, for calls of its snapshotter.

The argument is the configuration as JSON, in the words of the configuration file. Asked
anything, it says where it listens and what that cost so far.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from snapshotter.api import rss_anon
from snapshotter.bench.children.talk import answer_all
from snapshotter.config import LogOptions, parse_config
from snapshotter.daemon import running
from snapshotter.logs import configure_logs


def main() -> None:
    config = parse_config(json.loads(sys.argv[1]), "configuration of the benchmark's daemon")
    configure_logs(LogOptions(level="warning"))

    def answer(_: dict[str, Any]) -> dict[str, Any]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "address": str(config.grpc_address),
            "cpu": usage.ru_utime + usage.ru_stime,
            "rss_anon": rss_anon(),
        }

    with running(config):
        answer_all(answer)


if __name__ == "__main__":
    main()
