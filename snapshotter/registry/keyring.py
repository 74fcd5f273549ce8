"""Whose credentials are tried at a host, in which order.

At the registry itself a pull secret comes first: it is what the cluster's user meant for this
repository. A mirror of ``hosts.toml`` is the administrator's, so are its credentials, and the
pull secret comes last there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from snapshotter.registry.credentials import Credential, Lookup, find_credential
from snapshotter.registry.hosts import Host, default_address
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.providers import Provider
from snapshotter.registry.pull_secrets import PullSecret, PullSecrets
from snapshotter.registry.secret_files import SecretFiles


class Keyring(Protocol):
    """Knows who we may be."""

    def find(self, host: Host, repository: str) -> Sequence[Lookup]:
        """What to try, best first; without any, one :class:`Lookup` that tells why. Thread-safe."""
        ...


class NodeKeyring(Keyring):
    """What this node was given: Docker's config, pull secrets in files, credential providers."""

    def __init__(self, options: RegistryOptions) -> None:
        self._docker_config = options.docker_config
        self._files = SecretFiles(options.pull_secrets)
        self._providers = [
            Provider(name, provider) for name, provider in options.credential_providers.items()
        ]

    def find(self, host: Host, repository: str) -> Sequence[Lookup]:
        # A secret for a registry is not for a mirror of it: each is asked for by its own name.
        name = host.registry if _is_own(host) else host.address
        found = [find_credential(host.address, self._docker_config)]
        found += self._files.find(name, repository)
        for provider in self._providers:
            found += provider.find(name, repository)
        return _tidy(found)


class PullSecretKeyring(Keyring):
    """The node's, and what clients handed over with their pulls."""

    def __init__(self, node: Keyring, secrets: PullSecrets) -> None:
        self._node = node
        self._secrets = secrets

    def find(self, host: Host, repository: str) -> Sequence[Lookup]:
        given = self._secrets.find(host.registry, repository, host.address)
        own = self._node.find(host, repository)
        return _tidy([*given, *own] if _is_own(host) else [*own, *given])


class PresentedKeyring(Keyring):
    """One secret that somebody shows us right now, and nothing else."""

    def __init__(self, secret: PullSecret | None) -> None:
        self._secret = secret

    def find(self, host: Host, repository: str) -> Sequence[Lookup]:  # noqa: ARG002
        credential: Credential | None = None
        if self._secret is not None and self._secret.server in ("", host.address):
            credential = self._secret.credential
        return [Lookup(credential, "the credentials that came with the pull")]


def _is_own(host: Host) -> bool:
    return host.address in (host.registry, default_address(host.registry))


def _tidy(found: Sequence[Lookup]) -> list[Lookup]:
    """Those with a credential, each once; of none, what all of them tell."""
    usable: dict[Credential, Lookup] = {}
    for lookup in found:
        if lookup.credential is not None:
            usable.setdefault(lookup.credential, lookup)
    return list(usable.values()) or [Lookup(None, "; ".join(lookup.story for lookup in found))]
