from __future__ import annotations

import pytest

from snapshotter.artifact.digest import Digest
from snapshotter.artifact.marker import ModelRef
from snapshotter.config import ConfigError, parse_config
from snapshotter.images.allowed import NotAllowed, check_allowed
from snapshotter.images.options import ImageOptions

REF = ModelRef("registry.example.com:5000", "team/m", Digest("sha256:" + "0" * 64))


@pytest.mark.parametrize(
    "registries", [(), ("registry.example.com:5000",), ("a.b", "*.example.com:5000/team")]
)
def test_models_come_from_anywhere_or_from_what_is_named(registries: tuple[str, ...]) -> None:
    check_allowed(REF, ImageOptions(registries=registries))


@pytest.mark.parametrize(
    "registries", [("registry.example.com",), ("registry.example.com:5000/te",), ("docker.io",)]
)
def test_any_other_model_is_refused_and_what_to_do_is_told(registries: tuple[str, ...]) -> None:
    with pytest.raises(NotAllowed, match=r"registry\.example\.com:5000/team/m@.*\[images\]"):
        check_allowed(REF, ImageOptions(registries=registries))


@pytest.mark.parametrize("entry", ["https://registry.example.com", "", "a b"])
def test_what_is_no_registry_is_refused_at_the_start(entry: str) -> None:
    with pytest.raises(ConfigError, match="registries"):
        parse_config({"images": {"registries": [entry]}}, "test")
