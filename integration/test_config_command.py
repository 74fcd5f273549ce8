"""`modelpack config`: what it prints, given to a real containerd."""

from __future__ import annotations

import json

from integration.harness.containerd import Containerd, Release, releases
from integration.harness.cri import Cri
from integration.harness.machine import Machine
from integration.harness.places import Places
from integration.harness.registry import Registry
from integration.harness.rootfs import ROOTFS_IMAGE
from integration.harness.snapshotter import Snapshotter
from integration.models import push_model, read_sums, suited, sums_command
from integration.test_doctor import examine

NEWEST = releases()[0]

# What k3s makes of its template for containerd 2.1, shortened to what concerns images.
K3S = """
version = 3
imports = ["{dropins}/*.toml"]
root = "{directory}/root"
state = "{directory}/state"

[grpc]
  address = "{address}"

[plugins.'io.containerd.internal.v1.opt']
  path = "{directory}/opt"

[plugins.'io.containerd.cri.v1.runtime']
  enable_selinux = false
  restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ["{directory}/cni"]
  conf_dir = "{directory}/cni"

[plugins.'io.containerd.cri.v1.images']
  snapshotter = "overlayfs"
  disable_snapshot_annotations = true
  use_local_image_pull = true

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = "{sandbox}"

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins.'io.containerd.cri.v1.images'.registry]
  config_path = "{certs}"
"""


def printed(snapshotter: Snapshotter, *arguments: str) -> dict[str, str]:
    """Path to text."""
    files = json.loads(snapshotter.modelpack("config", *arguments, "--json"))
    return {file["path"]: file["text"] for file in files}


def test_the_version_is_that_of_the_containerd_that_runs(
    snapshotter: Snapshotter, containerd: Containerd, release: Release
) -> None:
    text = printed(snapshotter, "containerd")["/etc/containerd/config.toml"]
    assert text.startswith(f"# containerd {release.version}")


def test_a_k3s_node_mounts_a_model_by_the_configuration_printed_for_it(
    machine: Machine, places: Places, registry: Registry
) -> None:
    with Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter:
        files = printed(snapshotter, "k3s")
        (dropin,) = (text for path, text in files.items() if "config-v3.toml.d" in path)
        with Containerd(machine, NEWEST, places) as containerd:
            containerd.stop()
            dropins = machine.directory("k3s")
            (dropins / "modelpack.toml").write_text(dropin)
            containerd.configuration.write_text(
                K3S.format(
                    dropins=dropins,
                    directory=machine.directory("containerd"),
                    address=places.containerd,
                    sandbox=ROOTFS_IMAGE,
                    certs=places.certs,
                )
            )
            containerd.start()
            _, findings = examine(snapshotter)
            assert [
                f for f in findings if f["part"] == "containerd" and f["level"] == "error"
            ] == []
            with Cri(containerd) as cri:
                model = push_model(snapshotter, registry)
                for reference in (model.tag, model.digest):
                    pulled = cri.pull(reference)
                    with cri.pod(handler="modelpack") as pod:
                        container = pod.run(volumes={"/models": pulled})
                        listed = container.exec("sh", "-c", sums_command("/models"))
                        assert read_sums(listed, "/models") == model.sums


def test_a_file_of_its_own_that_is_imported_does_as_well_as_merging(
    machine: Machine, places: Places
) -> None:
    with (
        Snapshotter(machine, places, additions=suited(NEWEST)) as snapshotter,
        Containerd(machine, NEWEST, places) as containerd,
    ):
        text = printed(snapshotter, "containerd")["/etc/containerd/config.toml"]
        dropins = machine.directory("conf.d")
        (dropins / "modelpack.toml").write_text(text)
        directory = containerd.configuration.parent
        containerd.configuration.write_text(
            f'version = 3\nimports = ["{dropins}/*.toml"]\n'
            f'root = "{directory}/root"\nstate = "{directory}/state"\n'
            f'[grpc]\n  address = "{places.containerd}"\n'
        )
        containerd.stop()
        containerd.start()
        _, findings = examine(snapshotter)
        wrong = [f for f in findings if f["part"] == "containerd" and f["level"] == "error"]
        assert wrong == []
