"""Credentials as ``docker login`` leaves them: config.json and credential helpers.

Secrets live in :class:`Credential` only, which does not show them.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_DOCKER_HUB_KEY = "https://index.docker.io/v1/"
_DOCKER_HUB_NAMES = ("docker.io", "registry-1.docker.io", "index.docker.io")
_HELPER_TIMEOUT = 30.0
_HELPER_ANSWER_LIMIT = 64 << 10
_CONFIG_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Credential:
    """User and password, or an identity token (OAuth2 refresh token) instead."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header, RFC 7617."""
        # JSON can carry lone surrogates, which are no text: the registry will say no.
        pair = f"{self.username}:{self.password}".encode(errors="replace")
        return "Basic " + base64.b64encode(pair).decode()


@dataclass(frozen=True, slots=True)
class Lookup:
    """What was found for a host. ``story`` tells a person where, never the secret."""

    credential: Credential | None
    story: str


def find_credential(address: str, docker_config: str = "") -> Lookup:
    """The credentials for the host at ``address`` (``host[:port]``).

    Never raises: what went wrong is in the story, for the registry may well
    answer without credentials.
    """
    file = config_file(docker_config)
    try:
        config = _load(file)
    except FileNotFoundError:
        return Lookup(None, f"no credentials found, {file} does not exist")
    except (OSError, ValueError, RecursionError) as error:
        return Lookup(None, f"no credentials found, {file} cannot be read: {_reason(error)}")
    helper = _table(config, "credHelpers").get(address) or config.get("credsStore")
    if _is_docker_hub(address):
        helper = _docker_hub_helper(config)
    if isinstance(helper, str) and helper:
        found = _ask_helper(helper, helper_key(address))
        if found.credential is not None:
            return found
        stored = _stored(_table(config, "auths"), address)
        return found if stored is None else Lookup(stored, _found_in(file, stored))
    stored = _stored(_table(config, "auths"), address)
    if stored is None:
        return Lookup(None, f"no credentials for {address} in {file}")
    return Lookup(stored, _found_in(file, stored))


def config_file(docker_config: str = "") -> Path:
    """Where the credentials are: the option, else ``$DOCKER_CONFIG``, else ``~/.docker``."""
    if docker_config:
        path = Path(docker_config)
        return path / "config.json" if path.is_dir() else path
    directory = os.environ.get("DOCKER_CONFIG")
    if directory:
        return Path(directory) / "config.json"
    try:
        home = Path.home()
    except RuntimeError:  # neither $HOME nor an entry in the password file
        home = Path("/")
    return home / ".docker" / "config.json"


def helper_key(address: str) -> str:
    """What a credential helper is asked for; Docker Hub has a name of its own."""
    return _DOCKER_HUB_KEY if _is_docker_hub(address) else address


def login_name(address: str) -> str:
    """The argument of ``docker login`` for this host."""
    return "docker.io" if _is_docker_hub(address) else address


def _load(file: Path) -> Mapping[str, Any]:
    with file.open("rb") as stream:
        config = json.loads(stream.read(_CONFIG_LIMIT))
    if not isinstance(config, dict):
        raise ValueError("expected a JSON object")
    return config


def _stored(auths: Mapping[str, Any], address: str) -> Credential | None:
    wanted = _DOCKER_HUB_NAMES if _is_docker_hub(address) else (address,)
    # An exact key rules over the older spellings with scheme and path.
    keys = [*wanted, *(key for key in auths if _host_of(key) in wanted)]
    for key in keys:
        credential = decode_entry(auths.get(key))
        if credential is not None:
            return credential
    return None


def _host_of(key: str) -> str:
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def decode_entry(entry: Any) -> Credential | None:
    """The credential of an entry of ``auths``; None when it holds none."""
    if not isinstance(entry, dict):
        return None
    username, password = entry.get("username"), entry.get("password")
    auth, token = entry.get("auth"), entry.get("identitytoken")
    if isinstance(auth, str) and auth:
        try:
            decoded = base64.b64decode(auth, validate=True).decode()
        except ValueError:  # no base64, or no text in it
            return None
        username, _, password = decoded.partition(":")
        password = password.strip("\0")
    if isinstance(token, str) and token:
        return Credential(username if isinstance(username, str) else "", identity_token=token)
    if isinstance(username, str) and isinstance(password, str) and username:
        return Credential(username, password)
    return None


def _docker_hub_helper(config: Mapping[str, Any]) -> Any:
    helpers = _table(config, "credHelpers")
    named = (helpers.get(name) for name in (_DOCKER_HUB_KEY, *_DOCKER_HUB_NAMES))
    return next((helper for helper in named if helper), config.get("credsStore"))


def _ask_helper(helper: str, key: str) -> Lookup:
    """``docker-credential-NAME get``: the key on stdin, JSON on stdout."""
    program = f"docker-credential-{helper}"
    if "/" in helper or "\0" in helper:
        return Lookup(None, f"credential helper {helper!r} is no program's name")
    try:
        done = subprocess.run(
            [program, "get"],
            input=key.encode(),
            capture_output=True,
            timeout=_HELPER_TIMEOUT,
            check=False,
        )
    except FileNotFoundError:
        return Lookup(None, f"credential helper {program} is not on PATH")
    except subprocess.TimeoutExpired:
        return Lookup(None, f"credential helper {program} gave no answer in {_HELPER_TIMEOUT:g} s")
    except OSError as error:
        return Lookup(None, f"credential helper {program} cannot be run: {error.strerror}")
    if done.returncode != 0:
        # Its output is not shown: a helper may print anything there.
        return Lookup(None, f"credential helper {program} has none for {key}")
    try:
        answer = json.loads(done.stdout[:_HELPER_ANSWER_LIMIT])
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return Lookup(None, f"credential helper {program} gave an answer that is no credentials")
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        return Lookup(None, f"credential helper {program} has none for {key}")
    story = f"credentials from credential helper {program}"
    if username == "<token>":
        return Lookup(Credential("", identity_token=secret), story)
    return Lookup(Credential(username, secret), story)


def _is_docker_hub(address: str) -> bool:
    return address in _DOCKER_HUB_NAMES


def _table(config: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _found_in(file: Path, credential: Credential) -> str:
    user = f" of user {credential.username}" if credential.username else ""
    return f"credentials{user} from {file}"


def _reason(error: OSError | ValueError | RecursionError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    # A JSON error would quote a place in the file, never its text; keep it so.
    return "not a JSON object"
