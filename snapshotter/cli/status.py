"""`modelpack status`: what the daemon serves, and how much of it is here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from snapshotter.cli.asking import api_option, ask
from snapshotter.cli.options import Settings, json_option, terminal
from snapshotter.units import format_size


@click.command()
@api_option
@json_option
@click.pass_obj
def status(settings: Settings, api: Path | None, as_json: bool) -> None:
    """Show the models this node serves: mounts, bytes present of total, rate.

    \b
    Examples:
      modelpack status
      modelpack status --json | jq '.models[].present_bytes'
    """
    answer = ask(api or settings.config.api_address, "/v1/status")
    if as_json:
        click.echo(json.dumps(answer))
    else:
        _show(answer, terminal())


def _show(answer: dict[str, Any], console: Console) -> None:
    console.print(
        f"modelpack-snapshotter {answer['version']}, pid {answer['pid']}, "
        f"{format_size(answer['memory']['rss_anon_bytes'])} of memory; "
        f"{_cache(answer['cache'])}; "
        f"fetched {format_size(answer['fetched_bytes'])} "
        f"at {format_size(answer['rate_bytes_per_second'])}/s"
    )
    for pin in answer["cache"]["pins"]:
        size = "unknown size" if pin["size_bytes"] is None else format_size(pin["size_bytes"])
        console.print(f"pinned: {', '.join(pin['references'])}, {size} ({pin['digest']})")
    wrong = answer["verification"]
    if wrong["wrong_blobs"] or wrong["wrong_chunks"]:
        console.print(
            f"wrong bytes since it started: {wrong['wrong_blobs']} blobs, "
            f"{wrong['wrong_chunks']} chunks; none of them is served, the log names them"
        )
    for one in wrong["quarantined"]:
        console.print(
            f"quarantined: {one['digest']}, came wrong {one['times']} times in a row, "
            f"last from {', '.join(one['sources'])}"
        )
    for host in answer["hosts"]:
        if host["state"] != "ok":
            console.print(
                f"{host['host']} is {host['state']} after {host['failures']} failures in a row, "
                f"asked again in {host['asked_again_in_seconds']:.0f} s: {host['last_error']}"
            )
    console.print(_keeper(answer.get("keeper")))
    if not answer["models"]:
        console.print("no model is mounted")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("MODEL", "FILES", "SIZE", "PRESENT", "STATE", "READS", "DIRECTORY"):
        table.add_column(column, overflow="fold")
    for model in answer["models"]:
        share = model["present_bytes"] / model["size_bytes"] if model["size_bytes"] else 1
        table.add_row(
            model["reference"],
            f"{model['files']}{' (more left out)' if model.get('left_out') else ''}",
            format_size(model["size_bytes"]),
            f"{format_size(model['present_bytes'])} ({share:.0%})",
            model["state"],
            _reads(model),
            model["directory"],
        )
    console.print(table)


def _cache(cache: dict[str, Any]) -> str:
    evicted = f", {format_size(cache['evicted_bytes'])} evicted" if cache["evicted_bytes"] else ""
    return (
        f"cache {format_size(cache['allocated_bytes'])} of {format_size(cache['allowed_bytes'])}"
        f"{evicted} in {cache['path']}"
    )


def _reads(model: dict[str, Any]) -> str:
    """By whom files that are opened now are read."""
    if not model["passthrough"]:
        return "through the daemon"
    if model["state"] == "verified":
        return "passthrough"
    return "passthrough once verified"


def _keeper(told: dict[str, Any] | None) -> str:
    if told is None:
        return "keeper: disabled, mounts end with the daemon"
    if "pid" not in told:
        return "keeper: lost, and none could be started; mounts would end with the daemon"
    return (
        f"keeper: pid {told['pid']} holds {told['holds']} mounts "
        f"in {format_size(told['rss_bytes'])} of memory"
    )
