"""`modelpack verify`: hash again what the cache holds, and say what was found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from snapshotter.artifact.digest import Digest, encoded
from snapshotter.audits import Audits
from snapshotter.cache.chunk_lists import OwnLists
from snapshotter.cache.documents import Documents
from snapshotter.cache.store import BlobStore
from snapshotter.cli.options import Settings, json_option, plain_http_option, terminal
from snapshotter.cli.progress import bytes_bar
from snapshotter.errors import ModelpackError
from snapshotter.images.resolve import resolve_model
from snapshotter.mounts.trust import Trust
from snapshotter.registry.client import Registry
from snapshotter.registry.reference import Reference
from snapshotter.units import format_size

WRONG, UNSURE = 3, 4
"""Exit codes: wrong bytes were found; some could not be read."""
_QUIET = 120.0
"""Seconds the daemon may be silent between two lines: it hashes 16 MiB for each."""


class VerifyError(ModelpackError):
    """Nothing could be verified."""


@click.command()
@click.argument("reference", required=False)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, exists=True, path_type=Path),
    help="A cache of 'modelpack mount' that no mount is using.  [default: the daemon's cache]",
)
@plain_http_option
@json_option
@click.pass_obj
def verify(
    settings: Settings,
    reference: str | None,
    cache: Path | None,
    plain_http: bool,
    as_json: bool,
) -> None:
    """Hash again what the cache holds, of the model REFERENCE or of all.

    Through the daemon while it runs. Wrong bytes are dropped, and fetched anew when they
    are read. Of blobs that are not complete only chunks of a trusted chunk list can be
    checked. Ends with 0 when nothing was wrong, with 3 when something was, with 4 when
    something could not be read.

    \b
    Examples:
      modelpack verify
      modelpack verify registry.example.com/models/qwen3:8b --json
    """
    digest = _manifest(settings, reference, plain_http) if reference is not None else None
    found = []
    with _lines(settings, cache, digest) as lines, bytes_bar("verifying") as bar:
        for line in lines:
            if "total_bytes" in line:
                bar.total(line["total_bytes"])
            elif "blob" in line:
                found.append(line["blob"])
            bar.advance(line.get("hashed_bytes", 0))
        if not line.get("done"):
            raise VerifyError("the daemon ended before all was verified")
    if as_json:
        click.echo(json.dumps({"blobs": found}))
    else:
        _show(found)
    verdicts = {blob["verdict"] for blob in found}
    if "bad" in verdicts:
        sys.exit(WRONG)
    if "unreadable" in verdicts:
        sys.exit(UNSURE)


def _manifest(settings: Settings, reference: str, plain_http: bool) -> Digest:
    parsed = Reference.parse(reference)
    if parsed.digest is not None:
        return parsed.digest
    with settings.registry(parsed, plain_http=plain_http) as registry:
        return resolve_model(parsed, registry)[0].digest


@contextmanager
def _lines(
    settings: Settings, cache: Path | None, digest: Digest | None
) -> Iterator[Iterator[dict[str, Any]]]:
    """What a run says, in the daemon where one has the cache."""
    if cache is None and (daemon := _daemon(settings.config.api_address)) is not None:
        with closing(daemon):
            yield _asked(daemon, digest)
        return
    root = Path(settings.config.root)
    if cache is not None:
        root = cache / encoded(digest) if digest is not None else cache
    blobs = root if cache is not None else root / "cache"
    if not (blobs / "blobs").is_dir():
        raise VerifyError(f"{blobs} holds no blobs: nothing was mounted from there yet")
    store = BlobStore(blobs, settings.config.cache)
    registry = Registry(settings.config.registry)
    try:
        documents = Documents(root / "documents")
        trust = Trust(settings.config.verify, OwnLists(root / "chunks"), registry, documents)
        yield Audits(store, documents, trust).run(digest)
    finally:
        registry.close()
        store.close()


def _daemon(api: Path) -> httpx.Client | None:
    client = httpx.Client(transport=httpx.HTTPTransport(uds=str(api)), timeout=_QUIET)
    try:
        client.get("http://daemon/v1/status").raise_for_status()
    except httpx.HTTPError:
        client.close()
        return None
    return client


def _asked(client: httpx.Client, digest: Digest | None) -> Iterator[dict[str, Any]]:
    query = {"manifest": digest} if digest is not None else {}
    try:
        with client.stream("POST", "http://daemon/v1/verify", params=query) as answer:
            if answer.status_code != 200:
                raise VerifyError(_why(answer.read(), answer.status_code))
            for text in answer.iter_lines():
                yield json.loads(text)
    except httpx.HTTPError as error:
        raise VerifyError(f"the daemon did not answer: {error}") from None


def _why(body: bytes, status: int) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return f"the daemon answered {status}"


def _show(found: list[dict[str, Any]]) -> None:
    console = terminal()
    if not found:
        console.print("nothing of it is in the cache")
        return
    table = Table(box=None, pad_edge=False)
    for column in ("BLOB", "SIZE", "PRESENT", "CHECKED", "FOUND"):
        table.add_column(column, overflow="fold")
    for blob in found:
        table.add_row(
            blob["digest"],
            format_size(blob["size"]),
            format_size(blob["present"]),
            format_size(blob["checked"]),
            " ".join(filter(None, (blob["verdict"], blob["detail"] and f"({blob['detail']})"))),
        )
    console.print(table, highlight=False)
