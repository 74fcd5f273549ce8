"""What `modelpack inspect` shows people."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from snapshotter.cli.trees import plain, short, tree_table
from snapshotter.copies.survey import Survey
from snapshotter.units import format_size


def show(report: dict[str, Any], found: Survey, console: Console) -> None:
    console.print(_facts(report), highlight=False)
    console.print()
    encodings = {
        file.layer: told["encoding"]
        for file, told in zip(found.layout.files, report["files"], strict=True)
    }
    if found.layout.files or found.layout.directories:
        present = _present(report["node"])
        console.print(
            tree_table(found.layout, encodings, _column(present) if present else None),
            highlight=False,
        )
    for archive in found.unread:
        console.print(
            Text(
                f"and what is in {plain(archive.where)}: {archive.encoding.value}, "
                f"{format_size(archive.descriptor.size)}, all of which has to be downloaded to "
                "know its files (--unpack)"
            )
        )
    for warning in report["warnings"]:
        console.print(Text(f"unusual: {plain(warning)}"))
    _show_referrers(report, console)
    for index in report.get("tensors", ()):
        _show_tensors(index, console)


def _facts(report: dict[str, Any]) -> Table:
    facts = Table(box=None, show_header=False, pad_edge=False)
    config = report["config"]
    files = len(report["files"])
    for name, value in (
        ("Reference", report["reference"]),
        ("Digest", report["digest"]),
        ("Artifact", report["artifact_type"] or config["media_type"]),
        ("Name", config["name"] or config["title"]),
        ("Family", config["family"]),
        ("Vendor", config["vendor"]),
        ("Architecture", config["architecture"]),
        ("Format", config["format"]),
        ("Parameters", config["param_size"]),
        ("Precision", config["precision"] or config["quantization"]),
        ("Licence", ", ".join(config["licenses"])),
        ("Created", config["created"]),
        ("Source", config["source_url"]),
        (
            "Size",
            f"{format_size(report['size'])} in {len(report['layers'])} layers, {files} files"
            + (" and those in layers not read" if report["unread_layers"] else ""),
        ),
        ("Here", _here(report["node"])),
    ):
        if value:
            facts.add_row(name, Text(plain(value)))
    return facts


def _here(node: list[dict[str, Any]]) -> str:
    if not node:
        return "nothing of it"
    parts = []
    for held in node:
        share = held["present_bytes"] / held["size_bytes"] if held["size_bytes"] else 1
        points = f", mounted at {', '.join(held['mounted'])}" if held["mounted"] else ""
        amount = format_size(held["present_bytes"])
        parts.append(f"{amount} ({share:.0%}) in {held['cache']}{points}")
    return "; ".join(parts)


def _present(node: list[dict[str, Any]]) -> dict[str, str]:
    """Of each blob, the most that any cache here has of it."""
    most: dict[str, float] = {}
    for held in node:
        for blob in held["blobs"]:
            size = blob["size_bytes"]
            share = blob["present_bytes"] / size if size else 1.0
            most[blob["digest"]] = max(most.get(blob["digest"], 0.0), share)
    return {
        digest: "yes" if share >= 1 else "no" if share == 0 else f"{min(share, 0.99):.0%}"
        for digest, share in most.items()
    }


def _column(present: dict[str, str]) -> Callable[[str], str]:
    return lambda digest: present.get(digest, "no")


def _show_referrers(report: dict[str, Any], console: Console) -> None:
    if report["referrers_error"]:
        console.print()
        console.print(Text(f"what is attached is not known: {plain(report['referrers_error'])}"))
    if not report["referrers"]:
        return
    table = Table(box=None, pad_edge=False)
    for column in ("ATTACHED", "TYPE", "DIGEST"):
        table.add_column(column, overflow="fold")
    for one in report["referrers"]:
        what = one["artifact_type"] or one["tag"]
        table.add_row(one["kind"], Text(plain(what)), short(one["digest"]))
    console.print()
    console.print(table, highlight=False)


def _show_tensors(index: dict[str, Any], console: Console) -> None:
    console.print()
    if "error" in index:
        console.print(Text(plain(index["error"])))
        return
    console.print(
        Text(
            f"{plain(index['path'])}: {index['format']}, {len(index['tensors'])} tensors, "
            f"{index['parameters']:,} parameters, a header of {format_size(index['header_bytes'])}"
        )
    )
    table = Table(box=None, pad_edge=False)
    for column in ("TENSOR", "TYPE", "SHAPE", "BYTES"):
        table.add_column(column, justify="right" if column == "BYTES" else "left", overflow="fold")
    for tensor in index["tensors"]:
        table.add_row(
            Text(plain(tensor["name"])),
            Text(plain(tensor["dtype"])),
            " x ".join(map(str, tensor["shape"])) or "scalar",
            f"{tensor['size']:,}",
        )
    console.print(table, highlight=False)
