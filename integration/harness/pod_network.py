"""A network for pods that must not have the host's: loopback, and an address nobody reaches.

A pod with a user namespace has a network namespace of its own, so containerd wants a CNI
plugin for it. This one is a shell script that makes nothing and says what containerd has
to hear.
"""

from __future__ import annotations

import json
from typing import Any

from integration.harness.machine import Machine

_PLUGIN = """#!/bin/sh
case $CNI_COMMAND in
  VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
  ADD) cat <<EOT
{"cniVersion": "1.0.0", "interfaces": [{"name": "$CNI_IFNAME", "sandbox": "$CNI_NETNS"}],
 "ips": [{"interface": 0, "address": "192.0.2.1/32"}]}
EOT
  ;;
esac
"""


def write_pod_network(machine: Machine) -> dict[str, Any]:
    """Put the plugin where ``machine``'s containerd looks; what to add to its configuration."""
    directory = machine.directory("containerd/cni")
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "alone"}]}
    (directory / "pods.conflist").write_text(json.dumps(network))
    (directory / "alone").write_text(_PLUGIN)
    (directory / "alone").chmod(0o755)
    # containerd's own loopback; the plugin of that name is in a package of its own.
    cni = {"use_internal_loopback": True}
    return {"plugins": {"io.containerd.cri.v1.runtime": {"cni": cni}}}
