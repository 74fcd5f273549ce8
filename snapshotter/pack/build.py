"""Building: hash a directory's files and write down what artifact they make."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from snapshotter.artifact.config import ModelFacts
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.mediatypes import Category, Encoding
from snapshotter.pack.classify import LAYER_ORDER, classify
from snapshotter.pack.document import Layer, config_json, manifest_json
from snapshotter.pack.errors import BuildError
from snapshotter.pack.facts import guess, override
from snapshotter.pack.hashing import Job, hash_all
from snapshotter.pack.progress import Progress, Silent
from snapshotter.pack.record import BuildRecord, BuildStore, SourceBlob
from snapshotter.pack.tar import tar_header, tar_trailer
from snapshotter.pack.walk import SourceFile, walk
from snapshotter.registry.reference import Reference

_MANIFEST_LIMIT = 4 << 20
"""What docker/distribution accepts; most other registries do too."""


@dataclass(frozen=True, slots=True)
class Built:
    """What a build made."""

    reference: Reference
    digest: Digest
    """Of the manifest."""
    layers: tuple[Layer, ...]
    facts: ModelFacts
    notes: tuple[str, ...]
    """What a person should know, one line each."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(layer.file_size for layer in self.layers)


def build(
    directory: Path,
    reference: Reference,
    store: BuildStore,
    *,
    tar: bool = False,
    facts: ModelFacts | None = None,
    exclude: Sequence[str] = (),
    progress: Progress | None = None,
) -> Built:
    """Make an artifact of ``directory`` and remember it in ``store`` under ``reference``.

    The same files give the same digests wherever, whenever and by whomever they
    are built: owners and times are left out, modes are 0644 or 0755, and a
    creation time is written only where ``SOURCE_DATE_EPOCH`` gives it. ``facts``
    rule over what the files say. Raises :class:`BuildError`.
    """
    if reference.digest is not None or reference.tag is None:
        raise BuildError(f"{reference} names a digest: build under a tag such as NAME:v1")
    files = walk(directory, exclude)
    _check_weights(directory, files)
    known = _facts(files, reference, facts or ModelFacts())
    jobs = {file.path: _job(file, tar=tar) for file in files}
    digests = hash_all(list(jobs.values()), progress or Silent())
    layers = [_layer(file, jobs[file.path], digests[jobs[file.path]]) for file in files]
    layers.sort(key=lambda layer: (LAYER_ORDER.index(layer.category), layer.path))
    config = config_json(known, layers)
    manifest = manifest_json(config, layers)
    if len(manifest) > _MANIFEST_LIMIT:
        raise BuildError(
            f"{directory} holds {len(files)} files, which make a manifest of {len(manifest)} "
            f"bytes; registries take {_MANIFEST_LIMIT}: leave files out or bundle them"
        )
    blobs = {digest: _blob(job, digest) for job, digest in digests.items()}
    record = BuildRecord(
        reference=str(reference),
        manifest=manifest,
        config=config,
        blobs=tuple(blobs[digest] for digest in dict.fromkeys(x.digest for x in layers)),
    )
    store.save(record)
    return Built(reference, record.digest, tuple(layers), known, _notes(files))


def _check_weights(directory: Path, files: Sequence[SourceFile]) -> None:
    if not any(classify(file.path, file.size) is Category.WEIGHT for file in files):
        names = ", ".join(file.path for file in files[:3])
        raise BuildError(
            f"{directory} holds no weights (safetensors, gguf, bin, pt, onnx, ...), only "
            f"{len(files)} files such as {names}: is it the directory of a model?"
        )


def _facts(files: Sequence[SourceFile], reference: Reference, given: ModelFacts) -> ModelFacts:
    facts = override(guess(files), given)
    if not facts.name:
        facts = replace(facts, name=reference.repository.rpartition("/")[2])
    return facts if facts.created else replace(facts, created=_source_date())


def _source_date() -> str:
    """https://reproducible-builds.org/specs/source-date-epoch/"""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return ""
    try:
        return datetime.fromtimestamp(int(text), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        raise BuildError(
            f"SOURCE_DATE_EPOCH is {text[:40]!r}: expected seconds since 1970"
        ) from None


def _mode(file: SourceFile) -> int:
    return 0o755 if file.executable else 0o644


def _job(file: SourceFile, *, tar: bool) -> Job:
    if not tar:
        return Job(file.source, file.size, file.mtime_ns)
    header = tar_header(file.path, file.size, _mode(file))
    return Job(file.source, file.size, file.mtime_ns, header, tar_trailer(file.size))


def _layer(file: SourceFile, job: Job, digest: Digest) -> Layer:
    return Layer(
        path=file.path,
        category=classify(file.path, file.size),
        encoding=Encoding.TAR if job.header else Encoding.RAW,
        digest=digest,
        size=len(job.header) + file.size + job.trailer,
        file_size=file.size,
        mode=_mode(file),
    )


def _blob(job: Job, digest: Digest) -> SourceBlob:
    return SourceBlob(
        digest=digest,
        size=len(job.header) + job.size + job.trailer,
        file=str(job.source),
        file_size=job.size,
        mtime_ns=job.mtime_ns,
        header=job.header,
        trailer=job.trailer,
    )


def _notes(files: Sequence[SourceFile]) -> tuple[str, ...]:
    outside = [file for file in files if file.outside]
    if not outside:
        return ()
    first = outside[0]
    return (
        f"{len(outside)} of {len(files)} files are links out of the directory and were followed, "
        f"such as {first.path} to {first.source}",
    )
