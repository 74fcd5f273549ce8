"""What tests of several rooms ask for by name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzzing import FACTOR
from hypothesis import HealthCheck, settings
from registry_process import RegistryProcess

# No test asserts how long something takes: a machine may be busy.
settings.register_profile(
    "busy machine",
    deadline=None,
    max_examples=100 * FACTOR,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("busy machine")


@pytest.fixture(scope="session")
def docker_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """A real registry that anybody may read and write. Use a repository of your own."""
    with RegistryProcess(tmp_path_factory.mktemp("registry")) as process:
        yield process


@pytest.fixture(scope="session")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RegistryProcess]:
    """A real registry that wants ``registry_process.USER`` and ``PASSWORD`` (Basic)."""
    with RegistryProcess(tmp_path_factory.mktemp("private"), private=True) as process:
        yield process
