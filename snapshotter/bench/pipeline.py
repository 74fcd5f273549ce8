"""Programs that are run to their end, such as curl, and what they cost."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Sequence

from snapshotter.bench.errors import BenchError
from snapshotter.bench.process import die_with_parent


class Finished:
    """What a program that was run to its end cost, from wait4(2)."""

    def __init__(self, commands: Sequence[Sequence[str]]) -> None:
        """Run ``commands`` as a pipeline; the last one's output is dropped.

        Raises :class:`BenchError` with what the first failing one said last.
        """
        self.user = self.system = 0.0
        self.switches = 0
        self._run(commands)

    def _run(self, commands: Sequence[Sequence[str]]) -> None:
        processes: list[subprocess.Popen[bytes]] = []
        with tempfile.TemporaryFile() as said:
            try:
                for number, command in enumerate(commands):
                    processes.append(
                        subprocess.Popen(
                            command,
                            stdin=processes[-1].stdout if processes else subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL
                            if number == len(commands) - 1
                            else subprocess.PIPE,
                            stderr=said,
                            start_new_session=True,
                            preexec_fn=die_with_parent,
                        )
                    )
                for before in processes[:-1]:
                    if before.stdout is not None:
                        before.stdout.close()
                for process in processes:
                    _, status, usage = os.wait4(process.pid, 0)
                    process.returncode = os.waitstatus_to_exitcode(status)
                    self.user += usage.ru_utime
                    self.system += usage.ru_stime
                    self.switches += usage.ru_nvcsw
            finally:
                for process in processes:
                    if process.returncode is None:
                        process.kill()
                        process.wait()
            for process, command in zip(processes, commands, strict=True):
                if process.returncode:
                    said.seek(0)
                    lines = said.read().decode(errors="replace").strip().splitlines()
                    raise BenchError(
                        f"{command[0]} failed with status {process.returncode}: "
                        f"{lines[-1] if lines else 'it said nothing'}"
                    )
