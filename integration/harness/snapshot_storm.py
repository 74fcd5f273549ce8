"""Threads that make, commit and remove snapshots until the process ends, however it ends.

Arguments: root of the snapshots, seed. Every line of standard output is one thing that is
about to be done, or was: what a test expects to find is what :func:`replay` makes of them.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snapshotter.artifact.marker import ModelRef
from snapshotter.errors import ModelpackError
from snapshotter.snapshots.snapshotter import Snapshotter

_TOLD = os.dup(1)
THREADS = 3
STEPS = 25


class NoModels:
    def may_be_meant(self, key: str) -> bool:
        return False

    def find(self, key: str, labels: Mapping[str, str]) -> ModelRef | None:
        return None

    def is_looked_at(self, key: str) -> bool:
        return False

    def mount(self, ref: ModelRef, *, lower: bool = False) -> Path:
        raise AssertionError("there is no model")

    def bears_idmap(self, directory: Path) -> bool:
        raise AssertionError("there is no model")

    def release(self, ref: ModelRef) -> None:
        raise AssertionError("there is no model")


Known = tuple[str, str, dict[str, str]]
"""Kind, parent and labels of a snapshot."""


@dataclass
class Expected:
    """What must be there, and what was under way: that may be done or not, not half."""

    there: dict[str, Known] = field(default_factory=dict)
    under_way: list[dict[str, Any]] = field(default_factory=list)


def replay(lines: Iterable[str]) -> Expected:
    expected = Expected()
    doing: dict[int, dict[str, Any]] = {}
    for line in lines:
        said = json.loads(line)
        if "do" in said:
            doing[said["thread"]] = said
            continue
        done = doing.pop(said["thread"])
        if said["done"]:
            apply(expected.there, done)
    expected.under_way = list(doing.values())
    return expected


def apply(there: dict[str, Known], done: Mapping[str, Any]) -> None:
    name = done["name"]
    if done["do"] in ("prepare", "view"):
        kind = "active" if done["do"] == "prepare" else "view"
        there[name] = (kind, done["parent"], done["labels"])
    elif done["do"] == "commit":
        _, parent, _ = there.pop(done["key"])
        there[name] = ("committed", parent, done["labels"])
    elif done["do"] == "update":
        kind, parent, _ = there[name]
        there[name] = (kind, parent, done["labels"])
    else:
        del there[name]


class _Life:
    def __init__(self, snapshotter: Snapshotter, thread: int, seed: str) -> None:
        self._snapshotter = snapshotter
        self._thread = thread
        self._random = random.Random(f"{seed}-{thread}")
        self._prefix = f"{seed}-{thread}"

    def run(self) -> None:
        tops = [""]
        for step in range(STEPS):
            name, parent = f"{self._prefix}-{step}", self._random.choice(tops[-4:])
            key = f"{name} key"
            if not self._do("prepare", key, parent=parent, labels={"of": name}):
                continue
            match self._random.randrange(5):
                case 0:
                    self._do("remove", key)
                case 1:
                    self._do("update", key, labels={"changed": name})
                case _ if self._do("commit", name, key=key, labels={"of": name}):
                    tops.append(name)
                    view = self._do("view", f"{name} view", parent=name, labels={})
                    if view and self._random.randrange(3):
                        self._do("remove", f"{name} view")
                        if self._random.randrange(2) and self._do("remove", name):
                            tops.pop()

    def _do(self, do: str, name: str, **more: Any) -> bool:
        self._say(do=do, name=name, **more)
        snapshots = self._snapshotter
        try:
            match do:
                case "prepare":
                    snapshots.prepare(name, more["parent"], more["labels"])
                    _upper(snapshots, name).joinpath(name.removesuffix(" key")).write_text(name)
                case "view":
                    snapshots.view(name, more["parent"], {})
                case "commit":
                    snapshots.commit(name, more["key"], more["labels"])
                case "update":
                    snapshots.update(name, more["labels"], [])
                case "remove":
                    snapshots.remove(name)
        except (ModelpackError, OSError) as error:
            self._say(done=False, why=str(error))
            return False
        self._say(done=True)
        return True

    def _say(self, **what: Any) -> None:
        os.write(_TOLD, json.dumps({"thread": self._thread, **what}).encode() + b"\n")


def _upper(snapshots: Snapshotter, key: str) -> Path:
    mount = snapshots.mounts(key)
    uppers = [option[9:] for option in mount.options if option.startswith("upperdir=")]
    return Path(uppers[0] if uppers else mount.source)


def main() -> None:
    root, seed = sys.argv[1:]
    os.dup2(2, 1)  # logs are not what we say
    snapshots = Snapshotter(Path(root), NoModels())
    lives = [threading.Thread(target=_Life(snapshots, n, seed).run) for n in range(THREADS)]
    for life in lives:
        life.start()
    for life in lives:
        life.join()
    snapshots.close()


if __name__ == "__main__":
    main()
