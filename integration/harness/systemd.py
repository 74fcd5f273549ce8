"""A small machine whose process 1 is systemd, which knows the project's units and no others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from integration.harness.configuration import SAMPLES
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.processes import Process, accepts
from integration.harness.snapshotter import PROGRAMS, Snapshotter

_SYSTEMD = "/lib/systemd/systemd"
KEEPER, DAEMON = "modelpack-keeper.service", "modelpack-snapshotter.service"
# What every unit wants and waits for, unless it says otherwise: systemd.service(5).
_TARGETS = ("sysinit", "basic", "shutdown", "multi-user")

# In a control group of the machine's own, which is the root of all that systemd sees.
_ENTER = """
for groups in /sys/fs/cgroup /sys/fs/cgroup/unified /sys/fs/cgroup/systemd; do
  [ -e $groups/cgroup.procs ] || continue
  mkdir -p $groups/$0 && echo $$ > $groups/$0/cgroup.procs || exit
done
exec unshare --cgroup --uts --ipc --pid --mount --fork --kill-child \
  --mount-proc --propagation private "$@"
"""
_BOOT = """
set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$0/var-lib" /var/lib
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
fi
exec env -i PATH="$PATH" container=modelpack SYSTEMD_UNIT_PATH="$0/units" \
  "$1" --system --unit=multi-user.target --show-status=no --log-target=console \
  --default-standard-output=inherit
"""


class SystemdMachine(Machine):
    """Units come into the directory ``units``; what is printed goes into ``init.log``."""

    def _boot(self) -> None:
        units = self.directory("units")
        for target in _TARGETS:
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        self.directory("var-lib")
        self._init = Process(
            ["sh", "-c", _BOOT, str(self.root), _SYSTEMD],
            log=self.logs / "init.log",
            through=["sh", "-c", _ENTER, self.cgroup],
        )
        try:
            self._init.wait_until(self._listens, "systemd's socket")
        except BaseException:
            self.close()
            raise

    def _listens(self) -> bool:
        try:
            return accepts(self.seen(Path("/run/systemd/private")))
        except OSError:
            return False

    def systemctl(self, *arguments: str) -> str:
        """What it printed. Raises :class:`CommandError`."""
        return self.run(["systemctl", "--no-pager", *arguments]).stdout

    def main_pid(self, unit: str) -> int:
        """As the namespace numbers processes; 0: the unit has none."""
        return int(self.systemctl("show", "--property=MainPID", "--value", unit))


class DaemonService(Snapshotter):
    """Daemon and keeper as their units start them, of which only paths are exchanged."""

    machine: SystemdMachine

    def __init__(
        self, machine: SystemdMachine, places: Places, additions: Mapping[str, Any] | None = None
    ) -> None:
        exchanged = {
            "/usr/local/bin/": f"{PROGRAMS}/",
            "/etc/modelpack-snapshotter/": f"{machine.directory('snapshotter')}/",
            "/run/modelpack-snapshotter/": f"{places.state}/",
        }
        for name in (KEEPER, DAEMON):
            text = (SAMPLES / name).read_text()
            for default, ours in exchanged.items():
                text = text.replace(default, ours)
            (machine.directory("units") / name).write_text(text)
        super().__init__(machine, places, additions=additions)

    def start(self) -> None:
        """Returns when the unit's own start has: the daemon has said that it is ready."""
        self.machine.systemctl("daemon-reload")
        self.machine.systemctl("start", DAEMON)

    def stop(self) -> None:
        self.machine.systemctl("stop", DAEMON)
