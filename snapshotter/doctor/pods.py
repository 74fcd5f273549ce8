"""What CRI's configuration means for pods with models. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from snapshotter.doctor.containerd import ContainerdFacts
from snapshotter.doctor.effective import Effective
from snapshotter.doctor.finding import Change, Finding, error, ok, run, warning
from snapshotter.doctor.samples import CERTS_D, DAEMON_CONFIG, NAME
from snapshotter.doctor.wanted import PART, RESTART, Wanted

_CLIENT_PATH: tuple[tuple[str, bool | int], ...] = (
    ("use_local_image_pull", False),
    ("disable_snapshot_annotations", True),
    ("discard_unpacked_layers", False),
    ("max_concurrent_downloads", 3),
    ("image_pull_with_sync_fs", False),
)
"""Settings of CRI's image service, and the value without which it pulls by itself."""


def pods(
    facts: ContainerdFacts, effective: Effective, name: str, wanted: Wanted
) -> Iterator[Finding]:
    yield from _client_path(facts, effective)
    yield _mounting(facts, effective, name)
    yield from _user_namespaces(facts)
    yield from _hosts(facts, effective, wanted)


def _client_path(facts: ContainerdFacts, effective: Effective) -> Iterator[Finding]:
    file = facts.config_file
    if facts.release < (2, 1):
        if effective.images.get("discard_unpacked_layers") is True:
            yield error(
                PART,
                "discard-unpacked-layers",
                "discard_unpacked_layers is true",
                "a layer that was removed cannot be unpacked for a second snapshotter",
                Change(
                    file,
                    f"{_images_table(facts.release)}\n  discard_unpacked_layers = false\n",
                ),
                RESTART,
            )
        return
    wrong = [
        (key, right)
        for key, right in _CLIENT_PATH
        if key in effective.images and effective.images[key] != right
    ]
    why = "CRI then downloads models as a whole, and pods mount an empty directory"
    for key, right in wrong:
        yield error(
            PART,
            "client-path",
            f"{key} is {_toml(effective.images[key])}",
            why,
            Change(file, f"{_images_table(facts.release)}\n  {key} = {_toml(right)}\n"),
            RESTART,
        )
    if effective.inline_registry:
        inline = ", ".join(effective.inline_registry)
        yield error(
            PART,
            "client-path",
            f"the registry's {inline} are set in {file} itself",
            why,
            Change(
                file,
                "# move them to hosts.toml files, and remove every table named\n"
                + "\n".join(
                    f'#   [plugins."io.containerd.cri.v1.images".registry.{name}]'
                    for name in effective.inline_registry
                ),
            ),
            RESTART,
        )
    if not wrong and not effective.inline_registry:
        yield ok(PART, "client-path", "CRI pulls through the transfer service")


def _mounting(facts: ContainerdFacts, effective: Effective, name: str) -> Finding:
    """Which pods may mount models."""
    handlers = sorted(h for h, snapshotter in effective.handlers.items() if snapshotter == name)
    if effective.snapshotter == name:
        return ok(PART, "pods", f"{name} is the default snapshotter of pods")
    as_default = Change(
        facts.config_file, f'{_images_table(facts.release)}\n  snapshotter = "{name}"\n'
    )
    shows = "an empty directory" if facts.release >= (2, 1) else "nothing but a marker file"
    if handlers:
        return warning(
            PART,
            "pods",
            f"pods of the default handler mount models as {shows}, without an error",
            f"only pods with a runtimeClassName for the handler {' or '.join(handlers)} use {name}",
            run(f"# give pods with models `runtimeClassName: {handlers[0]}`, or:"),
            as_default,
            RESTART,
        )
    level = error if facts.release >= (2, 1) else warning
    return level(
        PART,
        "pods",
        f"no pod can mount a model: neither default snapshotter nor a runtime handler is {name}",
        f"pods mount models as {shows}, without an error",
        *_handler(facts, name),
        RESTART,
    )


def _user_namespaces(facts: ContainerdFacts) -> Iterator[Finding]:
    """Whether runc can what `hostUsers: false` needs; kubelet refuses such pods otherwise."""
    if facts.user_namespaces is None:
        return
    lacking = sorted(name for name, can in facts.user_namespaces.items() if not can)
    if lacking:
        yield warning(
            PART,
            "user-namespaces",
            f"the runc of handler {', '.join(lacking)} cannot map the IDs of mounts",
            "pods with a user namespace (hostUsers: false) do not start, with or without models",
            run("# install runc 1.2 or newer", "runc features | grep -A 2 idmap"),
            RESTART,
        )
    else:
        yield ok(PART, "user-namespaces", "pods may have a user namespace")


def _handler(facts: ContainerdFacts, name: str) -> Iterator[Change]:
    if facts.release < (1, 7):
        yield Change(
            facts.config_file, f'{_images_table(facts.release)}\n  snapshotter = "{name}"\n'
        )
        return
    plugin = "cri.v1.runtime" if facts.release >= (2, 0) else "grpc.v1.cri"
    yield Change(
        facts.config_file,
        f'[plugins."io.containerd.{plugin}".containerd.runtimes.{NAME}]\n'
        f'  runtime_type = "io.containerd.runc.v2"\n  snapshotter = "{name}"\n',
    )


def _hosts(facts: ContainerdFacts, effective: Effective, wanted: Wanted) -> Iterator[Finding]:
    """Whether pods' pulls ask the mirror, which 2.1 needs not."""
    asks = bool(effective.config_path) and any(
        directory in wanted.mirrored for directory in effective.config_path.split(":")
    )
    if facts.release >= (2, 1):
        if asks and wanted.pinned == "refuse":
            yield warning(
                PART,
                "pinned",
                f"pods' pulls ask the mirror ({effective.config_path}), which refuses digests",
                "image volumes of models by digest fail, though this containerd could mount them",
                Change(DAEMON_CONFIG, '[mirror]\npinned = "pass"\n'),
                run("systemctl restart modelpack-snapshotter"),
            )
        return
    if not effective.config_path:
        plugin = "cri.v1.images" if facts.release >= (2, 0) else "grpc.v1.cri"
        yield error(
            PART,
            "config-path",
            "CRI reads no hosts.toml: its registry.config_path is empty",
            "a pod's pull never asks the mirror, and downloads models as a whole",
            Change(
                facts.config_file,
                f'[plugins."io.containerd.{plugin}".registry]\n  config_path = "{CERTS_D}"\n',
            ),
            RESTART,
        )
    elif asks:
        yield ok(PART, "config-path", f"CRI reads hosts.toml files of {effective.config_path}")


def _images_table(release: tuple[int, int]) -> str:
    if release >= (2, 0):
        return '[plugins."io.containerd.cri.v1.images"]'
    return '[plugins."io.containerd.grpc.v1.cri".containerd]'


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
