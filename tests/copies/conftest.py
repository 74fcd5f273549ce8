from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from copies_models import Cli

from snapshotter.cli.main import cli as program


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`modelpack`, of a user with an empty home and a node of their own; fails unless it may."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CACHE_HOME", "XDG_DATA_HOME", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config.toml"
    config.write_text(
        f'root = "{tmp_path}/root"\nstate = "{tmp_path}/state"\n[registry]\ncerts_d = []\n'
    )

    def run(*arguments: str, fails: bool = False) -> Result:
        result = CliRunner().invoke(program, ["--config", str(config), *arguments])
        if not fails and result.exit_code != 0:
            raise AssertionError(f"{arguments}: {result.output}") from result.exception
        return result

    return run
