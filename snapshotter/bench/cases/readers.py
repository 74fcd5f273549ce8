"""The libraries that model servers really load weights with."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from snapshotter.bench.case import Case, Contender, Plan, Sample, Trial
from snapshotter.bench.children.loader import LOADERS
from snapshotter.bench.contenders import OURS
from snapshotter.bench.downloads import parallel
from snapshotter.bench.process import Child
from snapshotter.bench.published import Published, PublishedFile
from snapshotter.bench.stage import Stage

_GGUF = "GGUF reader"
_INSTALL = {
    "Run:ai model streamer": "pip install runai-model-streamer (brings PyTorch)",
}
_EXTRA = "pip install 'modelpack-snapshotter[bench]'"


def missing(modules: Sequence[str]) -> list[str]:
    """Which of these cannot be imported here; nothing is imported but parents."""
    absent = []
    for module in modules:
        try:
            found = importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            absent.append(module)
    return absent


def _plan(stage: Stage) -> Plan:
    trials: list[Trial] = []
    notes: list[str] = []
    for loader, (_, modules) in LOADERS.items():
        absent = missing(modules)
        if absent:
            install = _INSTALL.get(loader, _EXTRA)
            notes.append(f"{loader}: not measured, {', '.join(absent)} is missing: {install}")
            continue
        model = stage.gguf() if loader == _GGUF else stage.sharded()
        suffix = ".gguf" if loader == _GGUF else ".safetensors"
        files = [file for file in model.weights if file.path.endswith(suffix)]
        if not files:
            notes.append(f"{loader}: not measured, the model has no file *{suffix}")
            continue
        trials.append(_trial(stage, loader, model, files))
    return Plan(trials, notes)


def _trial(stage: Stage, loader: str, model: Published, files: Sequence[PublishedFile]) -> Trial:
    downloader = parallel(model)

    def ours() -> Sample:
        with stage.node() as node, node.cost() as cost:
            directory = node.mount(stage.reference(model, 0))
            sample = _load(loader, [directory / file.path for file in files], node.mount_seconds)
        sample.measures |= cost.measures(sum(file.size for file in files))
        return sample

    def theirs() -> Sample:
        with stage.scratch() as directory:
            got = downloader.fetch(stage, model, files, 0, directory)
            sample = _load(loader, got.paths, got.seconds)
        sample.measures["download_seconds"] = got.seconds
        return sample

    return Trial(
        loader,
        "seconds",
        [
            Contender(OURS, "a fresh node, empty cache; mount and load", ours, ours=True),
            Contender(
                f"{downloader.name}, then load",
                f"{downloader.how}; then the same load of the local copy",
                theirs,
            ),
        ],
        also=("rate", "fetched_ratio", "cpu_per_gib", "rss_anon", "download_seconds"),
        group="end to end",
    )


def _load(loader: str, paths: Sequence[Path], before: float) -> Sample:
    """``before``: seconds that came first and count too. Imports do not: they are the same."""
    with Child("loader") as child:
        child.ask(loader=loader)
        answer = child.ask(loader=loader, paths=[str(path) for path in paths])
    seconds = before + answer["ended"] - answer["started"]
    return Sample({"seconds": seconds, "bytes": answer["bytes"], "rate": answer["bytes"] / seconds})


READERS = Case(
    "readers",
    "Real readers, cold",
    "safetensors load_file and safe_open, GGUF reader, Run:ai model streamer, from the mount on",
    "the same reader on a local copy, download time included",
    _plan,
)
