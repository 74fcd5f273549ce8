"""A machine's own /etc: the distribution's, with what is written kept in the machine's directory.

For programs that read fixed paths there, and for commands as the documentation has them.
"""

from __future__ import annotations

from pathlib import Path

from integration.harness.machine import Machine
from integration.harness.places import Places

# In the machine's mount namespace only; the upper layer goes with its directory.
_MOUNT = """
mkdir -p "$0/upper" "$0/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$0/upper,workdir=$0/work" overlay /etc
rm -rf /etc/docker /etc/containerd /etc/modelpack-snapshotter
mkdir /etc/docker /etc/containerd /etc/modelpack-snapshotter
"""


def own_etc(machine: Machine, places: Places) -> Path:
    """Give ``machine`` its own /etc; that directory, as it is seen from here.

    Nothing of containerd, Docker and the daemon is in it, but their directories for
    hosts.toml files, which are those of ``places``.
    """
    machine.run(["sh", "-ec", _MOUNT, str(machine.directory("etc"))])
    etc = machine.seen(Path("/etc"))
    (etc / "docker" / "certs.d").symlink_to(places.docker_certs)
    (etc / "containerd" / "certs.d").symlink_to(places.certs)
    return etc
