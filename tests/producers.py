"""Models as each producer pushes them: manifest, config, annotations, members of archives.

Beside each what the producer's own tool would extract from it, which is what a mount shows.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zstandard

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MODEL = "application/vnd.cncf.model.manifest.v1+json"
MODEL_CONFIG = "application/vnd.cncf.model.config.v1+json"
CNCF = "application/vnd.cncf.model."
CNAI = "application/vnd.cnai.model."
FILEPATH = "org.cncf.model.filepath"
METADATA = "org.cncf.model.file.metadata+json"
UNTESTED = "org.cncf.model.file.mediatype.untested"
TITLE = "org.opencontainers.image.title"

MTIME = "2025-06-01T12:34:56.789012345+08:00"
MTIME_NS = 1748752496_789012345
TAR_MTIME = 1_700_000_000

WEIGHTS = random.Random(5).randbytes(300_000)
SHARD = random.Random(6).randbytes(200_000)
CONFIG = b'{"model_type": "llama"}'
README = b"# A model\n"


@dataclass(frozen=True)
class Shown:
    """What is at a path: a file, read-only whatever its producer said."""

    data: bytes
    mtime_ns: int = 0
    mode: int = 0o444


@dataclass
class Pushed:
    """Everything that goes into a registry, the manifest to ask for last."""

    blobs: list[bytes] = field(default_factory=list)
    manifests: list[tuple[str, bytes]] = field(default_factory=list)
    """Media type and bytes."""


@dataclass(frozen=True)
class Producer:
    name: str
    make: Callable[[], Pushed]
    shows: Mapping[str, Shown]
    empty_directories: Sequence[str] = ()


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(media_type: str, data: bytes, **fields: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)} | fields


def tar(
    members: Mapping[str, bytes | tarfile.TarInfo],
    *,
    format: int = tarfile.PAX_FORMAT,
    mode: int = 0o644,
    mtime: float = TAR_MTIME,
) -> bytes:
    """As Go's archive/tar and tar(1) write it; names that end in ``/`` are directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            member = tarfile.TarInfo(name)
            member.mode, member.mtime = (0o755 if name.endswith("/") else mode), mtime
            member.uid = member.gid = 1000
            if name.endswith("/"):
                member.type = tarfile.DIRTYPE
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def encoded(data: bytes, encoding: str) -> bytes:
    if encoding == "tar+gzip":
        return gzip.compress(data, mtime=0)
    if encoding == "tar+zstd":
        return zstandard.ZstdCompressor().compress(data)
    return data


@dataclass
class Artifact:
    """One manifest being put together."""

    config: bytes
    config_type: str = MODEL_CONFIG
    artifact_type: str | None = MODEL
    media_type: str = OCI_MANIFEST
    annotations: dict[str, str] = field(default_factory=dict)
    layers: list[dict[str, Any]] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)

    def add(self, media_type: str, data: bytes, annotations: Mapping[str, str] | None) -> Artifact:
        fields = {} if annotations is None else {"annotations": dict(annotations)}
        self.layers.append(described(media_type, data, **fields))
        self.blobs.append(data)
        return self

    def manifest(self) -> bytes:
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": self.media_type}
        if self.artifact_type is not None:
            document["artifactType"] = self.artifact_type
        document["config"] = described(self.config_type, self.config)
        document["layers"] = self.layers
        if self.annotations:
            document["annotations"] = self.annotations
        return json.dumps(document).encode()

    def pushed(self) -> Pushed:
        return Pushed([self.config, *self.blobs], [(self.media_type, self.manifest())])


def metadata(name: str, size: int, **changes: Any) -> str:
    """As modctl writes it: mode in decimal, Go's time, typeflag a number."""
    fields = {
        "name": name, "mode": 420, "uid": 0, "gid": 0, "size": size, "mtime": MTIME, "typeflag": 0,
    }  # fmt: skip
    return json.dumps(fields | changes, separators=(",", ":"))


def model_config(diff_ids: Sequence[str]) -> bytes:
    return json.dumps(
        {
            "descriptor": {"createdAt": "2025-06-01T12:34:56Z", "family": "llama", "name": "test"},
            "config": {"format": "safetensors", "paramSize": "8b", "precision": "bf16"},
            "modelfs": {"type": "layers", "diffIds": list(diff_ids)},
        }
    ).encode()


# modctl

_MODCTL = (  # config, weights, code, docs, each sorted by path
    ("weight.config", "config.json", CONFIG, 420),
    ("weight.config", "copy/config.json", CONFIG, 420),
    ("weight", "model-00001-of-00002.safetensors", WEIGHTS, 420),
    ("weight", "sub/größe-" + "x" * 110 + ".safetensors", SHARD, 384),
    ("code", "run.py", b"print(1)\n", 493),
    ("doc", "README.md", README, 420),
    ("doc", "empty.txt", b"", 420),
)


def modctl(*, raw: bool, prefix: str = CNCF, namespace: str = "org.cncf.model") -> Pushed:
    packed = []
    for category, path, data, mode in _MODCTL:
        blob = data if raw else tar({path: data}, mode=mode)
        packed.append((f"{prefix}{category}.v1.{'raw' if raw else 'tar'}", path, data, blob, mode))
    artifact = Artifact(
        model_config([digest(blob) for _, _, _, blob, _ in packed]),
        config_type=f"{prefix}config.v1+json",
        artifact_type=f"{prefix}manifest.v1+json",
        annotations={"org.cncf.modctl.modelfile": "NAME test\n"},
    )
    for media_type, path, data, blob, mode in [*packed, packed[0]]:  # patterns that overlap
        name = path.rpartition("/")[2]
        said = metadata(name, len(data), mode=mode)
        artifact.add(
            media_type,
            blob,
            {
                f"{namespace}.filepath": path,
                f"{namespace}.file.metadata+json": said,
                f"{namespace}.file.mediatype.untested": "false",
            },
        )
    return artifact.pushed()


def _modctl_shows(mtime_ns: int) -> dict[str, Shown]:
    return {
        path: Shown(data, mtime_ns, 0o555 if mode & 0o111 else 0o444)
        for _, path, data, mode in _MODCTL
    }


def modctl_unset() -> Pushed:
    """Go's zero time, and an artifact type alone (a config of another type)."""
    said = metadata("a.gguf", len(WEIGHTS), mtime="0001-01-01T00:00:00Z")
    return (
        Artifact(b"{}", config_type="application/json")
        .add(f"{CNCF}weight.v1.raw", WEIGHTS, {FILEPATH: "a.gguf", METADATA: said})
        .pushed()
    )


# The specification's twenty types, of either prefix

_CATEGORIES = ("weight", "weight.config", "doc", "code", "dataset")
_ENCODINGS = ("raw", "tar", "tar+gzip", "tar+zstd")


def every_type(prefix: str, namespace: str) -> Pushed:
    artifact = Artifact(
        model_config([]), f"{prefix}config.v1+json", artifact_type=f"{prefix}manifest.v1+json"
    )
    for category in _CATEGORIES:
        for encoding in _ENCODINGS:
            path, data = f"{category}/{encoding}.bin", f"{category} {encoding}".encode()
            blob = data if encoding == "raw" else encoded(tar({path: data}), encoding)
            artifact.add(f"{prefix}{category}.v1.{encoding}", blob, {f"{namespace}.filepath": path})
    return artifact.pushed()


_EVERY_TYPE = {
    f"{category}/{encoding}.bin": Shown(
        f"{category} {encoding}".encode(), 0 if encoding == "raw" else TAR_MTIME * 10**9
    )
    for category in _CATEGORIES
    for encoding in _ENCODINGS
}


# CNAI before modctl 0.0.2


def cnai_first() -> Pushed:
    artifact = Artifact(b"{}", f"{CNAI}config.v1+json", artifact_type=None)
    layer = f"{CNAI}layer.v1.tar"
    artifact.add(layer, tar({"model.bin": WEIGHTS}), {"org.cnai.model.model": "true"})
    artifact.add(
        f"{layer}+gzip",
        encoded(tar({"config.json": CONFIG}), "tar+gzip"),
        {"org.cnai.model.config": "true", "org.cnai.model.filepath": "config.json"},
    )
    artifact.add(
        "application/vnd.oci.image.layer.v1.tar+gzip",
        encoded(tar({"README.md": README}), "tar+gzip"),
        {"org.cnai.model.readme": "true"},
    )
    return artifact.pushed()


_TAR_NS = TAR_MTIME * 10**9


# Docker


def docker_cncf(*, old: bool) -> Pushed:
    weights = "weight.v1.gguf" if old else "weight.v1.raw"
    shard = "weight.v1.safetensors" if old else "weight.v1.raw"
    files = (WEIGHTS, SHARD, CONFIG, README)
    config = model_config([] if old else [digest(data) for data in files])
    return (
        Artifact(config, artifact_type=None if old else MODEL)
        .add(f"{CNCF}{weights}", WEIGHTS, {FILEPATH: "model.gguf", UNTESTED: "true"})
        .add(f"{CNCF}{shard}", SHARD, {FILEPATH: "model.safetensors"})
        .add(f"{CNCF}weight.config.v1.raw", CONFIG, {FILEPATH: "config.json"})
        .add(f"{CNCF}doc.v1.raw", README, {FILEPATH: "LICENSE"})
        .pushed()
    )


_DOCKER_CNCF = {
    "model.gguf": Shown(WEIGHTS),
    "model.safetensors": Shown(SHARD),
    "config.json": Shown(CONFIG),
    "LICENSE": Shown(README),
}
_DOCKER = "application/vnd.docker.ai."


def docker_config(version: str, layers: Sequence[bytes]) -> tuple[bytes, str]:
    config = {
        "config": {"format": "gguf", "quantization": "Q4_K_M", "parameters": "361.82 M"},
        "descriptor": {"created": "2025-06-01T12:34:56Z"},
        "rootfs": {"type": "rootfs", "diff_ids": [digest(layer) for layer in layers]},
    }
    return json.dumps(config).encode(), f"{_DOCKER}model.config.v{version}+json"


def docker_files() -> Pushed:
    """v0.2: a layer for each file, and directories as archives."""
    members = {"vllm/": b"", "vllm/config.json": CONFIG, "vllm/tokenizer.json": b"{}"}
    packed = tar(members)
    layers = [WEIGHTS, SHARD, b"{{ messages }}", README, b"dd", packed]
    artifact = Artifact(*docker_config("0.2", layers), artifact_type=None)
    names = (
        ("safetensors", "text_encoder/model.safetensors"),
        ("mmproj", "model.mmproj"),
        ("chat.template.jinja", "chat_template.jinja"),
        ("license", "LICENSE"),
        ("model.file", "docs/notes.txt"),
        ("dir.tar", "vllm"),
    )
    for (kind, path), data in zip(names, layers, strict=True):
        artifact.add(f"{_DOCKER}{kind}", data, {FILEPATH: path})
    return artifact.pushed()


def docker_vllm() -> Pushed:
    """v0.1 with shards and an archive of what vLLM needs beside them, without a name."""
    packed = tar({"config.json": CONFIG, "tokenizer.json": b"{}"})
    layers = [WEIGHTS, SHARD, packed]
    artifact = Artifact(*docker_config("0.1", layers), artifact_type=None)
    for kind, data in zip(("safetensors", "safetensors", "vllm.config.tar"), layers, strict=True):
        artifact.add(f"{_DOCKER}{kind}", data, None)
    return artifact.pushed()


def docker_unnamed() -> Pushed:
    """v0.1 as first published: no names, found by type; Docker then makes these up."""
    layers = [WEIGHTS, SHARD, README]
    artifact = Artifact(*docker_config("0.1", layers), artifact_type=None)
    for kind, data in zip(("gguf.v3", "mmproj", "license"), layers, strict=True):
        artifact.add(f"{_DOCKER}{kind}", data, None)
    return artifact.pushed()


def docker_shards() -> Pushed:
    artifact = Artifact(*docker_config("0.1", [WEIGHTS, SHARD]), artifact_type=None)
    for data in (WEIGHTS, SHARD):
        artifact.add(f"{_DOCKER}gguf.v3", data, None)
    return artifact.pushed()


# KitOps

_KIT = {
    "weights": {"weights/": b"", "weights/a.safetensors": WEIGHTS, "weights/empty/": b""},
    "weights/part-2.safetensors": {"weights/": b"", "weights/part-2.safetensors": SHARD},
    "docs": {"docs/": b"", "docs/guide/": b"", "docs/guide/README.md": README},
    "src/run.py": {"src/": b"", "src/run.py": b"print(1)\n"},
    ".": {"data/": b"", "data/eval.csv": b"a,b\n"},
}
_KIT_SHOWS = {
    "weights/a.safetensors": Shown(WEIGHTS, _TAR_NS),
    "weights/part-2.safetensors": Shown(SHARD, _TAR_NS),
    "docs/guide/README.md": Shown(README, _TAR_NS),
    "src/run.py": Shown(b"print(1)\n", _TAR_NS),
    "data/eval.csv": Shown(b"a,b\n", _TAR_NS),
}


def kitops(encoding: str, *, native: bool) -> Pushed:
    """Shards after the first are parts, which ModelPack calls weight.config."""
    kinds = ("model", "modelpart", "docs", "code", "dataset")
    modelpack = ("weight", "weight.config", "doc", "code", "dataset")
    contents = [tar(members) for members in _KIT.values()]
    kitfile = json.dumps({"manifestVersion": "1.0.0", "package": {"name": "test"}}).encode()
    config = kitfile if native else model_config([digest(content) for content in contents])
    artifact = Artifact(
        config,
        "application/vnd.kitops.modelkit.config.v1+json" if native else MODEL_CONFIG,
        artifact_type="application/vnd.kitops.modelkit.manifest.v1+json" if native else MODEL,
    )
    for kind, category, path, content in zip(kinds, modelpack, _KIT, contents, strict=True):
        media_type = (
            f"application/vnd.kitops.modelkit.{kind}.v1.{encoding}"
            if native
            else f"{CNCF}{category}.v1.{encoding}"
        )
        artifact.add(media_type, encoded(content, encoding), None if native else {FILEPATH: path})
    return artifact.pushed()


def kitops_raw() -> Pushed:
    """Entries that are single files, as they are; parts are further shards."""
    files = (
        ("weight", "model-1.safetensors", WEIGHTS),
        ("weight.config", "model-2.safetensors", SHARD),
        ("doc", "README.md", README),
        ("code", "src/run.py", b"print(1)\n"),
    )
    artifact = Artifact(model_config([digest(data) for _, _, data in files]))
    for category, path, data in files:
        artifact.add(f"{CNCF}{category}.v1.raw", data, {FILEPATH: path})
    return artifact.pushed()


# AIKit and KAITO


def aikit(platform: str = "amd64") -> Artifact:
    weights = tar({"model.safetensors": WEIGHTS}, mtime=0)
    said = metadata(
        "model.safetensors", len(WEIGHTS), mtime="1970-01-01T00:00:00Z", files=["model.safetensors"]
    )
    bundle = tar({"config.json": CONFIG, "tokenizer/tokenizer.json": platform.encode()}, mtime=0)
    docs = tar({"README.md": README}, mtime=0)
    return (
        Artifact(b"{}")
        .add(f"{CNCF}weight.v1.tar", weights, {FILEPATH: "unet/model.safetensors", METADATA: said})
        .add(
            f"{CNCF}weight.config.v1.tar",
            bundle,
            # Not escaped, so it is no JSON.
            {FILEPATH: "config", METADATA: '{"name":"config","files":["a"b"]}'},
        )
        .add(
            f"{CNCF}doc.v1.tar+gzip",
            encoded(docs, "tar+gzip"),
            {FILEPATH: "docs", METADATA: metadata("docs", len(docs), files=["README.md"])},
        )
    )


def aikit_index(*platforms: str) -> Pushed:
    """An index as BuildKit makes it: manifests for platforms, and attestations."""
    whole, listed = Pushed(), []
    for platform in platforms:
        artifact = aikit(platform)
        raw = artifact.manifest()
        whole.blobs += [artifact.config, *artifact.blobs]
        whole.manifests.append((OCI_MANIFEST, raw))
        listed.append(
            described(
                OCI_MANIFEST,
                raw,
                artifactType=MODEL,
                platform={"os": "linux", "architecture": platform},
            )
        )
        statement = b'{"_type":"https://in-toto.io/Statement/v0.1"}'
        attestation = Artifact(
            b"{}", "application/vnd.oci.image.config.v1+json", artifact_type=None
        ).add("application/vnd.in-toto+json", statement, {"in-toto.io/predicate-type": "slsa"})
        raw = attestation.manifest()
        whole.blobs += [statement]
        whole.manifests.append((OCI_MANIFEST, raw))
        listed.append(
            described(
                OCI_MANIFEST,
                raw,
                platform={"os": "unknown", "architecture": "unknown"},
                annotations={"vnd.docker.reference.type": "attestation-manifest"},
            )
        )
    index = {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "artifactType": "application/vnd.cncf.model.index.v1+json",
        "manifests": listed,
    }
    whole.manifests.append((OCI_INDEX, json.dumps(index).encode()))
    return whole


def _aikit_shows(platform: str) -> dict[str, Shown]:
    return {
        "unet/model.safetensors": Shown(WEIGHTS),
        "config.json": Shown(CONFIG),
        "tokenizer/tokenizer.json": Shown(platform.encode()),
        "README.md": Shown(README),
    }


# Others


def llmman() -> Pushed:
    """Tar layers with a title alone; the filepath of a transferred one is the base name."""
    return (
        Artifact(b"{}")
        .add(f"{CNCF}weight.v1.tar", tar({"model.gguf": WEIGHTS}), {TITLE: "model.gguf"})
        .add(f"{CNCF}doc.v1.tar", tar({"docs/README.md": README}), {FILEPATH: "README.md"})
        .pushed()
    )


def nydusified() -> Pushed:
    """The model's own layers, and behind them one that is Nydus' own."""
    bootstrap = encoded(tar({"image/image.boot": b"RAFS"}), "tar+gzip")
    return (
        Artifact(model_config([digest(WEIGHTS), digest(bootstrap)]))
        .add(f"{CNCF}weight.v1.raw", WEIGHTS, {FILEPATH: "model.gguf"})
        .add(
            "application/vnd.oci.image.layer.v1.tar+gzip",
            bootstrap,
            {"containerd.io/snapshot/nydus-bootstrap": "true"},
        )
        .pushed()
    )


_EMPTY = "application/vnd.oci.empty.v1+json"


def oras(artifact_type: str) -> Pushed:
    """``oras push REF config.json w/model.safetensors:application/x.weights``."""
    return (
        Artifact(b"{}", _EMPTY, artifact_type=artifact_type)
        .add("application/vnd.oci.image.layer.v1.tar", tar({"d/notes": README}), {TITLE: "d"})
        .add("application/octet-stream", CONFIG, {TITLE: "config.json"})
        .add("application/x.weights", WEIGHTS, {TITLE: "w/model.safetensors"})
        .pushed()
    )


def ollama() -> Pushed:
    """An ordinary image's manifest and config; layers are known by their types alone. Ollama
    gives no names, so those of the files are ours."""
    config = {"model_format": "gguf", "model_family": "llama", "rootfs": {"diff_ids": []}}
    artifact = Artifact(
        json.dumps(config).encode(),
        "application/vnd.docker.container.image.v1+json",
        artifact_type=None,
        media_type=DOCKER_MANIFEST,
    )
    for kind, data in (
        ("model", WEIGHTS),
        ("template", b"{{ .Prompt }}"),
        ("license", b"one"),
        ("license", b"two"),
        ("params", b'{"stop":[]}'),
    ):
        artifact.add(f"application/vnd.ollama.image.{kind}", data, None)
    return artifact.pushed()


_ORAS = {
    "d/notes": Shown(README, _TAR_NS),
    "config.json": Shown(CONFIG),
    "w/model.safetensors": Shown(WEIGHTS),
}

PRODUCERS = (
    Producer("modctl", lambda: modctl(raw=True), _modctl_shows(MTIME_NS)),
    Producer("modctl-tar", lambda: modctl(raw=False), _modctl_shows(_TAR_NS)),
    Producer("modctl-unset", modctl_unset, {"a.gguf": Shown(WEIGHTS)}),
    Producer("every-type", lambda: every_type(CNCF, "org.cncf.model"), _EVERY_TYPE),
    Producer("every-type-cnai", lambda: every_type(CNAI, "org.cnai.model"), _EVERY_TYPE),
    Producer(
        "cnai", lambda: modctl(raw=True, prefix=CNAI, namespace="org.cnai.model"),
        _modctl_shows(MTIME_NS),
    ),
    Producer(
        "cnai-first", cnai_first,
        {
            "model.bin": Shown(WEIGHTS, _TAR_NS),
            "config.json": Shown(CONFIG, _TAR_NS),
            "README.md": Shown(README, _TAR_NS),
        },
    ),
    Producer("docker-cncf", lambda: docker_cncf(old=False), _DOCKER_CNCF),
    Producer("docker-cncf-old", lambda: docker_cncf(old=True), _DOCKER_CNCF),
    Producer(
        "docker-files", docker_files,
        {
            "text_encoder/model.safetensors": Shown(WEIGHTS),
            "model.mmproj": Shown(SHARD),
            "chat_template.jinja": Shown(b"{{ messages }}"),
            "LICENSE": Shown(README),
            "docs/notes.txt": Shown(b"dd"),
            "vllm/config.json": Shown(CONFIG, _TAR_NS),
            "vllm/tokenizer.json": Shown(b"{}", _TAR_NS),
        },
    ),
    Producer(
        "docker-vllm", docker_vllm,
        {
            "model-00001-of-00002.safetensors": Shown(WEIGHTS),
            "model-00002-of-00002.safetensors": Shown(SHARD),
            "config.json": Shown(CONFIG, _TAR_NS),
            "tokenizer.json": Shown(b"{}", _TAR_NS),
        },
    ),
    Producer(
        "docker-unnamed", docker_unnamed,
        {"model.gguf": Shown(WEIGHTS), "model.mmproj": Shown(SHARD), "LICENSE": Shown(README)},
    ),
    Producer(
        "docker-shards", docker_shards,
        {
            "model-00001-of-00002.gguf": Shown(WEIGHTS),
            "model-00002-of-00002.gguf": Shown(SHARD),
        },
    ),
    *(
        Producer(
            f"kitops-{'native-' if native else ''}{encoding.replace('+', '-')}",
            lambda encoding=encoding, native=native: kitops(encoding, native=native),  # type: ignore[misc]
            _KIT_SHOWS,
            ["weights/empty"],
        )
        for encoding in _ENCODINGS[1:]
        for native in (False, True)
    ),
    Producer(
        "kitops-raw", kitops_raw,
        {
            "model-1.safetensors": Shown(WEIGHTS),
            "model-2.safetensors": Shown(SHARD),
            "README.md": Shown(README),
            "src/run.py": Shown(b"print(1)\n"),
        },
    ),
    Producer("aikit", lambda: aikit().pushed(), _aikit_shows("amd64")),
    Producer("aikit-index", lambda: aikit_index("s390x"), _aikit_shows("s390x")),
    Producer("aikit-platforms", lambda: aikit_index("arm64", "amd64"), _aikit_shows("amd64")),
    Producer(
        "llmman", llmman,
        {"model.gguf": Shown(WEIGHTS, _TAR_NS), "README.md": Shown(README, _TAR_NS)},
    ),
    Producer("nydusify", nydusified, {"model.gguf": Shown(WEIGHTS)}),
    Producer("oras-typed", lambda: oras(MODEL), _ORAS),
    Producer("oras", lambda: oras("application/vnd.unknown.artifact.v1"), _ORAS),
    Producer(
        "ollama", ollama,
        {
            "model.gguf": Shown(WEIGHTS),
            "template": Shown(b"{{ .Prompt }}"),
            "LICENSE": Shown(b"one"),
            "LICENSE-2": Shown(b"two"),
            "params.json": Shown(b'{"stop":[]}'),
        },
    ),
)  # fmt: skip
