"""Kubelet's image credential provider plugins, run as kubelet runs them.

``credentialprovider.kubelet.k8s.io/v1``: the image on standard input, credentials for patterns
of images on standard output, how long they may be kept beside them. Cloud providers ship these
programs (ECR, GCR and Artifact Registry, ACR); nodes have them already.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from snapshotter.registry.credentials import Credential, Lookup, decode_entry
from snapshotter.registry.options import CredentialProvider
from snapshotter.registry.patterns import matches, without_scheme

_ANSWER_LIMIT = 1 << 20
_KEPT = 256
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FAILED = 10.0
"""Seconds a provider that failed is not asked again for the same image."""


@dataclass(frozen=True, slots=True)
class _Kept:
    auth: tuple[tuple[str, Credential], ...]
    failure: str
    until: float


class Provider:
    """One program and what it answered. Thread-safe; one run at a time."""

    def __init__(self, name: str, options: CredentialProvider) -> None:
        self._name = name
        self._options = options
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], _Kept] = {}

    def find(self, registry: str, repository: str) -> list[Lookup]:
        """Never raises; what went wrong is in the one :class:`Lookup` without a credential."""
        if not any(matches(p, registry, repository) for p in self._options.match_images):
            return []
        with self._lock:
            kept = self._known(registry, repository) or self._ask(registry, repository)
        if kept.failure:
            return [Lookup(None, kept.failure)]
        found = [(p, c) for p, c in kept.auth if matches(p, registry, repository)]
        found.sort(key=lambda pair: (-len(pair[0]), "*" in pair[0]))
        story = f"credentials from provider {self._name}"
        return [Lookup(credential, story) for _, credential in found] or [
            Lookup(None, f"credential provider {self._name} has none")
        ]

    def _known(self, registry: str, repository: str) -> _Kept | None:
        now = time.monotonic()
        keys = (("Image", f"{registry}/{repository}"), ("Registry", registry), ("Global", ""))
        return next(
            (kept for key in keys if (kept := self._kept.get(key)) and kept.until > now), None
        )

    def _ask(self, registry: str, repository: str) -> _Kept:
        image = f"{registry}/{repository}"
        try:
            answer = self._run(image)
            kind, seconds, auth = _read(answer, self._options)
        except _Failure as failure:
            story = f"credential provider {self._name} {failure}"
            kept = _Kept((), story, time.monotonic() + _FAILED)
            self._keep(("Image", image), kept)
            return kept
        kept = _Kept(auth, "", time.monotonic() + seconds)
        key = {"Image": image, "Registry": registry, "Global": ""}[kind]
        self._keep((kind, key), kept)
        return kept

    def _keep(self, key: tuple[str, str], kept: _Kept) -> None:
        self._kept.pop(key, None)
        self._kept[key] = kept
        if len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def _run(self, image: str) -> Any:
        request = {
            "apiVersion": self._options.api_version,
            "kind": "CredentialProviderRequest",
            "image": image,
        }
        environment = dict(entry.partition("=")[::2] for entry in self._options.env)
        try:
            done = subprocess.run(
                [self._options.path, *self._options.args],
                input=json.dumps(request).encode(),
                capture_output=True,
                timeout=self._options.timeout,
                env={**os.environ, **environment},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise _Failure(f"gave no answer in {self._options.timeout:g} s") from None
        except OSError as error:
            raise _Failure(f"cannot be run: {self._options.path}: {error.strerror}") from None
        # Its output is not shown: a program may print anything there.
        if done.returncode != 0:
            raise _Failure(f"failed with status {done.returncode}")
        try:
            return json.loads(done.stdout[:_ANSWER_LIMIT])
        except (ValueError, RecursionError):
            raise _Failure("gave an answer that is not JSON") from None


class _Failure(Exception):
    """Why there is no answer; never holds any of it."""


def _read(
    answer: Any, options: CredentialProvider
) -> tuple[str, float, tuple[tuple[str, Credential], ...]]:
    """Which key it is kept under, for how many seconds, and the credentials by pattern."""
    if not isinstance(answer, Mapping) or answer.get("kind") != "CredentialProviderResponse":
        raise _Failure("gave an answer that is no CredentialProviderResponse")
    if answer.get("apiVersion") != options.api_version:
        raise _Failure(
            f"answered in another apiVersion than {options.api_version}; set api_version to its own"
        )
    kind = answer.get("cacheKeyType")
    if kind not in ("Image", "Registry", "Global"):
        raise _Failure("gave no cacheKeyType of Image, Registry or Global")
    auth = answer.get("auth")
    pairs = auth.items() if isinstance(auth, Mapping) else ()
    decoded = ((without_scheme(str(key)), decode_entry(entry)) for key, entry in pairs)
    known = tuple((key, credential) for key, credential in decoded if credential is not None)
    return kind, _lifetime(answer.get("cacheDuration"), options), known


def _lifetime(said: Any, options: CredentialProvider) -> float:
    """Seconds of ``cacheDuration``, written as Go does: ``12h0m0s``; 0 is not to be kept."""
    if said is None:
        return float(options.default_cache_duration)
    parts = _DURATION.findall(said) if isinstance(said, str) else []
    if said != "0" and (not parts or "".join(n + u for n, u in parts) != said):
        raise _Failure("gave a cacheDuration that is no duration such as 12h0m0s")
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)
