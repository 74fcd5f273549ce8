"""What the image service proxy learns from kubelet: the pull secrets of models.

PullImage is the only call that carries a secret. Once it went well and the image is a model, the
secret is kept for reading that repository (:mod:`snapshotter.registry.pull_secrets`).

Kubelet pulls an image that is there no second time, so a secret lost with a reboot would never
come again, and a model that is not complete on this node could not be read. For such a model
ImageStatus is answered as if the image were not there: kubelet then pulls it, which takes some
milliseconds, and brings the secret.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
from google.protobuf.message import DecodeError

from proto.cri.runtime.v1 import api_pb2 as api
from snapshotter.artifact.digest import Digest
from snapshotter.artifact.errors import ArtifactError
from snapshotter.cache.durable import replace
from snapshotter.errors import ModelpackError
from snapshotter.images.containerd import Containerd
from snapshotter.images.resolve import model_manifest
from snapshotter.images.stub import REF_LABEL
from snapshotter.registry.errors import InvalidReference
from snapshotter.registry.pull_secrets import LIMIT, PullSecret, PullSecrets, parse_auth
from snapshotter.registry.reference import Reference

log = structlog.get_logger(__name__)

NAMESPACE = "k8s.io"
"""containerd's namespace for everything CRI does."""
# v1alpha2 is what kubelets before 1.26 speak; its messages have the same fields.
_SERVICES = ("/runtime.v1.ImageService/", "/runtime.v1alpha2.ImageService/")
_PULL, _STATUS = "PullImage", "ImageStatus"


class PullWatcher:
    """A :class:`~snapshotter.images.cri_proxy.Watcher`. Thread-safe."""

    def __init__(
        self,
        containerd: Containerd,
        secrets: PullSecrets,
        places: PrivatePlaces,
        *,
        complete: Callable[[Digest], bool],
    ) -> None:
        """``complete`` says of the digest of a model's manifest whether all its bytes are here."""
        self._containerd = containerd
        self._secrets = secrets
        self._places = places
        self._complete = complete

    def watches(self, method: str) -> bool:
        service, _, name = method.rpartition("/")
        return f"{service}/" in _SERVICES and name in (_PULL, _STATUS)

    def succeeded(self, method: str, request: bytes) -> None:
        if method.endswith(_PULL):
            self._pulled(request)

    def answer(self, method: str, request: bytes) -> bytes | None:
        if not method.endswith(_STATUS):
            return None
        asked = api.ImageStatusRequest.FromString(request)
        reference = _reference(asked.image.image)
        if reference is None or not self._places.has(reference.registry, reference.repository):
            return None
        if self._secrets.has(reference.registry, reference.repository):
            return None
        digest = self._model(reference)
        if digest is None or self._complete(digest):
            return None
        log.info("image shown as missing, so that its pull secret comes", image=str(reference))
        return api.ImageStatusResponse().SerializeToString()

    def _pulled(self, request: bytes) -> None:
        secret, image = _read_pull(request)
        reference = _reference(image)
        if secret is None or reference is None:
            return
        try:
            if self._model(reference) is None:
                return
        except ModelpackError as error:
            # In doubt it is kept: without it a model cannot be read, and others are not asked.
            log.warning("image not looked at", image=str(reference), error=str(error))
        self._secrets.keep(reference.registry, reference.repository, secret)
        self._places.add(reference.registry, reference.repository)

    def _model(self, reference: Reference) -> Digest | None:
        """The manifest of the model that containerd has under this name; None: it is no model."""
        digest = reference.digest
        name = reference.with_digest(digest) if digest is not None else reference
        for image in self._containerd.images(NAMESPACE, f'name=="{name}"'):
            target = image.target.digest
            raw = self._containerd.read(NAMESPACE, target)
            if raw is None:
                continue
            try:
                manifest = model_manifest(
                    raw, target, lambda listed: self._containerd.read(NAMESPACE, listed)
                )
            except ArtifactError:
                continue
            return manifest.digest if manifest is not None else _stands_for(raw)
        return None


class PrivatePlaces:
    """Repositories of models that were pulled with a secret: their names, on disk. Thread-safe."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._names: dict[tuple[str, str], None] = {}
        try:
            listed = msgspec.json.decode(file.read_bytes(), type=list[tuple[str, str]])
            self._names.update(dict.fromkeys(listed))
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            log.warning("private models forgotten", file=str(file), error=type(error).__name__)

    def has(self, registry: str, repository: str) -> bool:
        with self._lock:
            return (registry, repository) in self._names

    def add(self, registry: str, repository: str) -> None:
        with self._lock:
            if (registry, repository) in self._names:
                return
            self._names[registry, repository] = None
            while len(self._names) > LIMIT:
                del self._names[next(iter(self._names))]
            try:
                replace(self._file, json.dumps(list(self._names)).encode())
            except OSError as error:
                log.warning("private model not noted", file=str(self._file), error=error.strerror)


def _read_pull(request: bytes) -> tuple[PullSecret | None, str]:
    try:
        pull = api.PullImageRequest.FromString(request)
    except DecodeError:
        return None, ""
    auth = pull.auth
    secret = parse_auth(
        auth.username, auth.password, auth.auth, auth.identity_token, auth.server_address
    )
    return secret, pull.image.image


def _reference(image: str) -> Reference | None:
    """None for what names no place, an image ID for instance."""
    try:
        return Reference.parse(image) if not image.startswith("sha256:") else None
    except InvalidReference:
        return None


def _stands_for(raw: bytes) -> Digest | None:
    """The model behind a stub, as its manifest is labelled."""
    try:
        label = json.loads(raw)["annotations"][REF_LABEL]
        return Reference.parse(label).digest
    except (ValueError, KeyError, TypeError, RecursionError, InvalidReference):
        return None
