"""The pages of docs/: their commands are run as they stand there, so that neither can drift.

A page's commands are the lines of its fenced ``sh`` blocks. What cannot be the same on every
machine is exchanged: the registry, and directories that are not the tests' to write to.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from integration.harness.machine import REPOSITORY, Machine

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_RESTART = re.compile(r"systemctl (?:re)?start (.+)")


def commands(page: str) -> list[str]:
    """The commands of docs/``page``, each on one line, in their order."""
    text = (REPOSITORY / "docs" / page).read_text()
    lines = "\n".join(_BLOCK.findall(text)).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def run_page(
    page: str,
    machine: Machine,
    *,
    environment: Mapping[str, str],
    exchanged: Mapping[str, str],
    restart: Callable[[Sequence[str]], None],
    leave_out: Callable[[str], bool] = lambda _: False,
    after: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Run the commands of docs/``page``; command as the page has it -> what it printed.

    ``restart`` does what ``systemctl restart`` would, with the services' names; ``after`` is
    called after each command. A command of ``leave_out`` is not run. Raises
    :class:`CommandError`.
    """
    printed: dict[str, str] = {}
    for command in commands(page):
        if leave_out(command):
            continue
        services = _RESTART.fullmatch(command)
        if services is not None:
            restart(services[1].split())
            continue
        line = command
        for theirs, ours in exchanged.items():
            line = line.replace(theirs, ours)
        printed[command] = machine.run(["sh", "-ec", line], environment=environment).stdout
        after()
    return printed
