"""Docker's config.json and the helpers it names. Nothing here ever holds a secret."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from snapshotter.doctor.finding import Finding, ok, run, unknown, warning
from snapshotter.registry.credentials import config_file

PART = "credentials"
_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class CredentialFacts:
    file: Path
    there: bool
    failure: str = ""
    """Why it cannot be used."""
    mode: int = 0
    stored: tuple[str, ...] = ()
    """Registries it holds credentials of."""
    helpers: tuple[tuple[str, str, bool], ...] = ()
    """Registry (``*`` for all), program, and whether it is on PATH."""


def gather(docker_config: str) -> CredentialFacts:
    file = config_file(docker_config)
    try:
        with file.open("rb") as stream:
            mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
            document = json.loads(stream.read(_LIMIT))
    except FileNotFoundError:
        return CredentialFacts(file, there=False)
    except OSError as refused:
        return CredentialFacts(file, there=True, failure=refused.strerror or "cannot be read")
    except ValueError:  # its message would quote the file
        return CredentialFacts(file, there=True, failure="not a JSON object")
    if not isinstance(document, dict):
        return CredentialFacts(file, there=True, failure="not a JSON object")
    auths, named = document.get("auths"), document.get("credHelpers")
    helpers = dict(named) if isinstance(named, dict) else {}
    if document.get("credsStore"):
        helpers["*"] = document["credsStore"]
    return CredentialFacts(
        file,
        there=True,
        mode=mode,
        stored=tuple(
            registry
            for registry, entry in (auths.items() if isinstance(auths, dict) else ())
            if isinstance(entry, dict) and (entry.get("auth") or entry.get("identitytoken"))
        ),
        helpers=tuple(
            (registry, program, shutil.which(program) is not None)
            for registry, helper in helpers.items()
            if isinstance(helper, str)
            for program in [f"docker-credential-{helper}"]
        ),
    )


def judge(facts: CredentialFacts) -> list[Finding]:
    if not facts.there:
        return [
            ok(PART, "credentials", f"{facts.file} does not exist: registries are read anonymously")
        ]
    if facts.failure:
        return [
            warning(
                PART,
                "credentials",
                f"{facts.file} cannot be used: {facts.failure}",
                "private registries refuse us",
                run("docker login REGISTRY"),
            )
            if facts.failure == "not a JSON object"
            else unknown(PART, "credentials", f"{facts.file}: {facts.failure}")
        ]
    found = []
    for registry, program, there in facts.helpers:
        whose = "every registry" if registry == "*" else registry
        if there:
            found.append(ok(PART, "credential-helper", f"{program} for {whose} is on PATH"))
        else:
            found.append(
                warning(
                    PART,
                    "credential-helper",
                    f"{program}, the credential helper for {whose}, is not on PATH",
                    "that registry is read anonymously",
                    run(f"# install {program}, or take it out of {facts.file}"),
                )
            )
    if facts.stored and facts.mode & 0o077:
        found.append(
            warning(
                PART,
                "credentials",
                f"{facts.file} has mode {facts.mode:04o} and holds credentials",
                "other users of the node can read them",
                run(f"chmod 600 {facts.file}"),
            )
        )
    elif facts.stored:
        registries = ", ".join(facts.stored)
        found.append(ok(PART, "credentials", f"{facts.file} has credentials of {registries}"))
    return found or [ok(PART, "credentials", f"{facts.file} names no credentials")]
