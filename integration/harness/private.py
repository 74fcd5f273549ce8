"""A model in a registry that asks who comes, and credentials that are there for a moment only."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from integration.harness.registry import PASSWORD, USER, Registry
from integration.harness.snapshotter import Snapshotter
from integration.models import PushedModel, push_model


def docker_config(*registries: str) -> str:
    """Docker's ``config.json``, which is also what is in a pull secret."""
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return json.dumps({"auths": {registry: {"auth": auth} for registry in registries}})


@contextmanager
def logged_in(snapshotter: Snapshotter, *registries: str) -> Iterator[None]:
    """As after ``docker login``, daemon included; afterwards as after ``docker logout``."""
    file = Path(snapshotter.environment["DOCKER_CONFIG"]) / "config.json"
    file.write_text(docker_config(*registries))
    try:
        yield
    finally:
        file.unlink()


def push_private_model(
    snapshotter: Snapshotter, registry: Registry, *, name: str = "models/test"
) -> PushedModel:
    """Push it, and leave the node without credentials."""
    with logged_in(snapshotter, registry.host):
        return push_model(snapshotter, registry, name=name)
