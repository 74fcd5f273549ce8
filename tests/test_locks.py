from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snapshotter.locks import DirectoryInUse, lock_directory


def test_a_locked_directory_is_refused_and_the_error_says_who_has_it(tmp_path: Path) -> None:
    lock = lock_directory(tmp_path)
    with pytest.raises(DirectoryInUse, match=rf"in use by .*pid {os.getpid()}.*stop it"):
        lock_directory(tmp_path)
    os.close(lock)
    os.close(lock_directory(tmp_path))


def test_a_process_that_was_killed_leaves_no_lock(tmp_path: Path) -> None:
    holding = (
        "import sys, time; from pathlib import Path; from snapshotter.locks import lock_directory;"
        "lock_directory(Path(sys.argv[1])); print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holding, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        with pytest.raises(DirectoryInUse, match=f"pid {process.pid}"):
            lock_directory(tmp_path)
        process.kill()
        process.wait()
    os.close(lock_directory(tmp_path))


def test_a_directory_that_cannot_be_locked_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(DirectoryInUse, match=f"cannot lock {tmp_path}"):
        lock_directory(tmp_path)
