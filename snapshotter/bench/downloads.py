"""Baselines that download first: curl, aria2c, and our own parallel downloader."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from snapshotter.bench.errors import Unavailable
from snapshotter.bench.pipeline import Finished
from snapshotter.bench.process import Child, Watch
from snapshotter.bench.published import Published, PublishedFile
from snapshotter.bench.stage import Stage

_CONNECTIONS = 16
_RANGE = 8 << 20
_LOOK = 0.02


@dataclass(slots=True)
class Downloaded:
    """Files on the disk, and when they were there (monotonic clock)."""

    paths: list[Path]
    started: float
    ended: float
    arrived: list[tuple[float, float]]
    """Seconds since the start, bytes on the disk."""
    cpu: float

    @property
    def seconds(self) -> float:
        return self.ended - self.started


@dataclass(frozen=True, slots=True)
class Downloader:
    """A way to get blobs into files."""

    name: str
    how: str
    program: str
    connections: int

    def fetch(
        self,
        stage: Stage,
        model: Published,
        files: Sequence[PublishedFile],
        rtt: float,
        target: Path,
    ) -> Downloaded:
        """Download ``files`` into the directory ``target``, flat, under names of their own."""
        paths = [target / f"{number}-{Path(f.path).name}" for number, f in enumerate(files)]
        with Watch(lambda: (time.monotonic(), _allocated(paths)), _LOOK) as watch:
            if self.program:
                times = self._run(stage, model, files, rtt, paths)
            else:
                times = self._own(stage, model, files, rtt, paths)
        started, ended, cpu = times
        arrived = [(max(0.0, at - started), count) for at, count in watch.seen if at <= ended]
        arrived.append((ended - started, watch.seen[-1][1]))
        return Downloaded(paths, started, ended, arrived, cpu)

    def _run(
        self,
        stage: Stage,
        model: Published,
        files: Sequence[PublishedFile],
        rtt: float,
        paths: Sequence[Path],
    ) -> tuple[float, float, float]:
        urls = [stage.url(model, file.digest, rtt) for file in files]
        if self.program == "curl":
            command = ["curl", "-sSf", "--noproxy", "*"]
            for url, path in zip(urls, paths, strict=True):
                command += ["-o", str(path), url]
        else:
            listing = paths[0].with_name("urls")
            listing.write_text(
                "".join(
                    f"{url}\n  out={path.name}\n" for url, path in zip(urls, paths, strict=True)
                )
            )
            command = ["aria2c", "--quiet", "--no-conf", "--file-allocation=none", "--no-proxy=*"]
            command += [f"-x{_CONNECTIONS}", f"-s{_CONNECTIONS}", "-k1M", f"-j{len(paths)}"]
            command += ["--dir", str(paths[0].parent), "--input-file", str(listing)]
        started = time.monotonic()
        finished = Finished([command])
        return started, time.monotonic(), finished.user + finished.system

    def _own(
        self,
        stage: Stage,
        model: Published,
        files: Sequence[PublishedFile],
        rtt: float,
        paths: Sequence[Path],
    ) -> tuple[float, float, float]:
        config = stage.config_of(paths[0].parent)
        with Child("download", json.dumps(config)) as child:
            answer = child.ask(
                reference=stage.reference(model, rtt),
                connections=self.connections,
                range=_RANGE,
                blobs=[
                    (file.digest, file.size, str(path))
                    for file, path in zip(files, paths, strict=True)
                ],
            )
        return answer["started"], answer["ended"], answer["user"] + answer["system"]


def one_stream(model: Published) -> Downloader:
    """curl where it can reach the registry by itself."""
    if not model.loopback:
        return Downloader(
            "one stream",
            "our own downloader with one connection (registry needs our client)",
            "",
            1,
        )
    if shutil.which("curl") is None:
        raise Unavailable("curl is not on PATH: install it for the baseline of one stream")
    return Downloader("curl", "curl -o FILE URL, one connection", "curl", 1)


def parallel(model: Published) -> Downloader:
    """aria2c where it is installed and can reach the registry by itself, else our own."""
    return every_parallel(model)[0]


def every_parallel(model: Published) -> list[Downloader]:
    """aria2c where it is installed and can reach the registry by itself, and our own."""
    how = f"our own downloader, {_CONNECTIONS} connections, ranges of 8 MiB"
    own = Downloader("parallel download", how, "", _CONNECTIONS)
    if not (model.loopback and shutil.which("aria2c")):
        return [own]
    how = f"aria2c -x{_CONNECTIONS} -s{_CONNECTIONS} -k1M --file-allocation=none"
    return [Downloader("aria2c", how, "aria2c", _CONNECTIONS), own]


def local(stage: Stage, model: Published, file: PublishedFile) -> Path:
    """``file`` on this machine's disk; a model of a foreign registry is downloaded for it once."""
    if model.source is not None:
        return model.source / file.path
    directory = stage.directory / "local" / file.digest.replace(":", "-")
    if not directory.exists():
        stage.say(f"downloading {file.path} for the local baseline")
        directory.mkdir(parents=True)
        parallel(model).fetch(stage, model, [file], 0, directory)
    return directory / f"0-{Path(file.path).name}"


def _allocated(paths: Sequence[Path]) -> float:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_blocks * 512
        except OSError:
            pass  # not begun yet
    return float(total)
