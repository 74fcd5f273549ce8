"""Pull secrets in files and credential providers: are they there? Nothing here holds a secret."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.credentials import PART
from snapshotter.doctor.finding import Finding, ok, run, warning
from snapshotter.registry.options import RegistryOptions
from snapshotter.registry.secret_files import SecretFiles


@dataclass(frozen=True, slots=True)
class SourceFacts:
    secrets: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Each configured place, and the patterns of registries that are found there."""
    providers: tuple[tuple[str, str, bool], ...] = ()
    """Name, program, and whether it can be run."""


def gather(options: RegistryOptions) -> SourceFacts:
    return SourceFacts(
        tuple((place, SecretFiles([place]).patterns()) for place in options.pull_secrets),
        tuple(
            (
                name,
                provider.path,
                Path(provider.path).is_file() and os.access(provider.path, os.X_OK),
            )
            for name, provider in options.credential_providers.items()
        ),
    )


def judge(facts: SourceFacts) -> list[Finding]:
    found = []
    for place, patterns in facts.secrets:
        if patterns:
            what = f"{place} has pull secrets of {', '.join(patterns)}"
            found.append(ok(PART, "pull-secrets", what))
        else:
            found.append(
                warning(
                    PART,
                    "pull-secrets",
                    f"{place}, of pull_secrets in [registry], has no pull secret",
                    "registries that it was meant for refuse us",
                    run(f"ls -lR {place}  # expected .dockerconfigjson, as of a mounted Secret"),
                )
            )
    for name, program, runs in facts.providers:
        if runs:
            found.append(ok(PART, "credential-provider", f"{program} is there"))
        else:
            found.append(
                warning(
                    PART,
                    "credential-provider",
                    f"{program}, the credential provider {name}, is no program that can be run",
                    "registries that it was meant for refuse us",
                    run(f"# install it, or take credential_providers.{name} out of [registry]"),
                )
            )
    return found
