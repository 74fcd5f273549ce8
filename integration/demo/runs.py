"""The ways a model gets into a container, each run from cold, each compared with the source."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from integration.demo.reading import Reader, Step, compare_sums, sums_command
from integration.demo.report import Run, Timeline
from integration.demo.stage import Stage, start_equally
from integration.harness.container import Container
from integration.harness.cri import Cri


def lazily(stage: Stage) -> Run:
    """By modelpack: the pull brings a few kilobytes, reading brings the rest."""
    run = Run("modelpack", stage.size)
    pull = ["pull", "--snapshotter", "modelpack", "--hosts-dir", str(stage.certs), stage.model]

    def observe(timeline: Timeline, step: Step) -> None:
        status = stage.snapshotter.status()
        present = sum(model["present_bytes"] for model in status["models"])
        timeline.add(step, fetched=present)
        memory = status["memory"]["rss_anon_bytes"]
        run.anonymous_bytes = max(run.anonymous_bytes, memory)

    _run(stage, run, "modelpack", pull, stage.model, observe)
    return run


def ordinarily(stage: Stage) -> Run:
    """By overlayfs: the pull brings every byte and unpacks it."""
    run = Run("overlayfs", stage.size)
    pull = ["pull", "--plain-http", "--snapshotter", "overlayfs", stage.image]
    _run(stage, run, "overlayfs", pull, stage.image, lambda timeline, step: timeline.add(step))
    return run


def _run(
    stage: Stage,
    run: Run,
    snapshotter: str,
    pull: Sequence[str],
    name: str,
    observe: Callable[[Timeline, Step], None],
) -> None:
    ctr = stage.containerd.ctr
    target = stage.machine.directory(f"mounted-{snapshotter}")
    mount = f"type=bind,src={target},dst=/models,options=rbind:ro"
    with stage.console.status("page cache dropped, memory touched ..."):
        start_equally(stage.registry, stage.size)
    with Container(stage.containerd, f"warm-{snapshotter}", snapshotter=snapshotter):
        pass  # ctr, shim and runc are in memory on a node that runs containers
    timeline = Timeline(stage.console, run)

    started = time.time()
    ctr("images", *pull)
    pulled = time.time()
    observe(timeline, Step("pull", "ctr images pull", started, pulled))

    started = time.time()
    ctr("images", "mount", "--snapshotter", snapshotter, name, str(target))
    with Container(
        stage.containerd, f"reader-{snapshotter}", snapshotter=snapshotter, mounts=[mount]
    ) as container:
        observe(timeline, Step("start", "ctr run: a shell answers", started, time.time()))
        reader = Reader(container, stage.source, "/models", lambda step: observe(timeline, step))
        reader.run()
        with stage.console.status("sha256 of every file, in the container ..."):
            reader.compare(stage.sums)
    stage.console.print("  [green]every file has the sha256 of its source[/]")
    ctr("images", "unmount", "--rm", "--snapshotter", snapshotter, str(target))
    ctr("images", "rm", "--sync", name)


def image_volumes(stage: Stage) -> dict[str, Any]:
    """As Kubernetes does it: a pod whose image volume is the model, by tag and by digest."""
    numbers: dict[str, Any] = {}
    stage.console.print("\n[bold]CRI image volume[/]")
    with Cri(stage.containerd) as cri:
        for how, reference in (("tag", stage.model), ("digest", stage.pinned)):
            started = time.time()
            pulled = cri.pull(reference)
            known = time.time()
            with cri.pod(f"by-{how}", handler="modelpack") as pod:
                container = pod.run(volumes={"/models": pulled})
                running = time.time()
                listing = container.exec("find", "/models", "-type", "f").splitlines()
                compare_sums(
                    container.exec("sh", "-c", sums_command("/models")), stage.sums, "/models"
                )
            stage.console.print(
                f"  by {how:<7} pulled in {(known - started) * 1000:.0f} ms, the pod runs "
                f"{running - known:.2f} s later; [green]{len(listing)} files, sha256 right[/]"
            )
            numbers[how] = {
                "pull_seconds": round(known - started, 4),
                "pod_seconds": round(running - known, 4),
                "files": len(listing),
            }
            cri.remove_image(reference)
    return numbers
