"""What kubelet does with a containerd: pull, pods, containers with image volumes, exec."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self
from uuid import uuid4

import grpc

from integration.harness.containerd import Containerd
from integration.harness.rootfs import ROOTFS_IMAGE
from proto.cri.runtime.v1 import api_pb2 as api
from proto.cri.runtime.v1.api_pb2_grpc import ImageServiceStub, RuntimeServiceStub

NAMESPACE = "k8s.io"
"""containerd's namespace for everything CRI does."""


class ExecError(Exception):
    """A command in a CRI container exited with another status than 0."""


@dataclass(frozen=True)
class PulledImage:
    """What PullImage answered."""

    reference: str
    """As it was asked for."""
    id: str

    @property
    def spec(self) -> api.ImageSpec:
        # As kubelet fills it in.
        return api.ImageSpec(image=self.id, user_specified_image=self.reference)


class Cri:
    """containerd's CRI, spoken to as kubelet does. gRPC errors reach the caller.

    It knows the rootfs image, of which pods and, unless told otherwise, containers are made.
    """

    def __init__(self, containerd: Containerd, *, address: str | None = None) -> None:
        """``address`` is another socket, for instance a proxy's, for the image service."""
        self.cgroup = f"/{containerd.machine.cgroup}"
        self.logs = containerd.machine.directory("logs/pods")
        self._channel = grpc.insecure_channel(f"unix://{containerd.address}")
        self._image_channel = grpc.insecure_channel(address or f"unix://{containerd.address}")
        self.runtime = RuntimeServiceStub(self._channel)
        self.images = ImageServiceStub(self._image_channel)
        containerd.import_rootfs(namespace=NAMESPACE)
        # CRI begins after containerd answers, and hears of what others import by an event.
        containerd.process.wait_until(self._is_up, f"{ROOTFS_IMAGE} in CRI")

    def _is_up(self) -> bool:
        try:
            self.runtime.Status(api.StatusRequest(), timeout=30)
            return self.knows(ROOTFS_IMAGE)
        except grpc.RpcError:
            return False

    def pull(
        self, reference: str, *, auth: api.AuthConfig | None = None, seconds: float = 120
    ) -> PulledImage:
        request = api.PullImageRequest(image=api.ImageSpec(image=reference), auth=auth)
        answer = self.images.PullImage(request, timeout=seconds)
        return PulledImage(reference, answer.image_ref)

    def knows(self, reference: str) -> bool:
        """Whether there is an image of that name."""
        request = api.ImageStatusRequest(image=api.ImageSpec(image=reference))
        return self.images.ImageStatus(request, timeout=30).HasField("image")

    def remove_image(self, reference: str) -> None:
        self.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=reference)))

    @contextmanager
    def pod(
        self, name: str = "pod", *, handler: str = "", mapping: api.IDMapping | None = None
    ) -> Iterator[Pod]:
        """A pod in the host's network, stopped and removed on leaving.

        With a ``mapping`` it has a user namespace, and a network namespace besides
        (:func:`harness.pod_network.write_pod_network`).
        """
        pod = Pod(self, name, handler, mapping)
        try:
            yield pod
        finally:
            pod.remove()

    def close(self) -> None:
        self._channel.close()
        self._image_channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Pod:
    """A running pod sandbox."""

    def __init__(
        self, cri: Cri, name: str, handler: str, mapping: api.IDMapping | None = None
    ) -> None:
        self._cri = cri
        self._ids = [] if mapping is None else [mapping]
        self._namespaces = api.NamespaceOption(network=api.NODE)
        if mapping is not None:
            self._namespaces = api.NamespaceOption(
                network=api.POD,
                userns_options=api.UserNamespace(mode=api.POD, uids=self._ids, gids=self._ids),
            )
        self._config = api.PodSandboxConfig(
            metadata=api.PodSandboxMetadata(name=name, uid=str(uuid4()), namespace="default"),
            log_directory=str(cri.logs),
            linux=api.LinuxPodSandboxConfig(
                cgroup_parent=cri.cgroup,
                security_context=api.LinuxSandboxSecurityContext(
                    namespace_options=self._namespaces
                ),
            ),
        )
        request = api.RunPodSandboxRequest(config=self._config, runtime_handler=handler)
        self.id = cri.runtime.RunPodSandbox(request, timeout=60).pod_sandbox_id

    def run(
        self,
        name: str = "main",
        *,
        image: str = ROOTFS_IMAGE,
        volumes: Mapping[str, PulledImage] | None = None,
        sub_path: str = "",
    ) -> PodContainer:
        """Start a container that sleeps. ``volumes``: path in the container -> image."""
        config = api.ContainerConfig(
            metadata=api.ContainerMetadata(name=name),
            image=api.ImageSpec(image=image),
            command=["/bin/sleep", "infinity"],
            log_path=f"{self.id}-{name}.log",
            mounts=[
                api.Mount(
                    container_path=path,
                    image=volume.spec,
                    image_sub_path=sub_path,
                    readonly=True,
                    uidMappings=self._ids,
                    gidMappings=self._ids,
                )
                for path, volume in (volumes or {}).items()
            ],
            linux=api.LinuxContainerConfig(
                security_context=api.LinuxContainerSecurityContext(
                    namespace_options=self._namespaces
                )
            ),
        )
        request = api.CreateContainerRequest(
            pod_sandbox_id=self.id, config=config, sandbox_config=self._config
        )
        container = self._cri.runtime.CreateContainer(request, timeout=120).container_id
        self._cri.runtime.StartContainer(
            api.StartContainerRequest(container_id=container), timeout=60
        )
        return PodContainer(self._cri, container)

    def remove(self) -> None:
        """Stop and remove it with its containers; nothing happens when it is gone."""
        runtime = self._cri.runtime
        runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=self.id), timeout=60)
        runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=self.id), timeout=60)


@dataclass(frozen=True)
class PodContainer:
    """A running container of a pod."""

    cri: Cri
    id: str

    def exec(self, *command: str, seconds: int = 300) -> str:
        """Run a command in it; its standard output. Raises :class:`ExecError`."""
        answer = self.cri.runtime.ExecSync(
            api.ExecSyncRequest(container_id=self.id, cmd=command, timeout=seconds),
            timeout=seconds + 5,
        )
        if answer.exit_code != 0:
            written = answer.stderr.decode(errors="replace").strip()
            raise ExecError(f"{' '.join(command)}: status {answer.exit_code}: {written}")
        return answer.stdout.decode(errors="replace")

    def remove(self) -> None:
        self.cri.runtime.StopContainer(api.StopContainerRequest(container_id=self.id, timeout=0))
        self.cri.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=self.id))
