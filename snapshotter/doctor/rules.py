"""What a containerd's configuration means for models. Pure.

Each trap is one function; docs/troubleshooting.md says how they look to a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from snapshotter.doctor.containerd import ContainerdFacts
from snapshotter.doctor.effective import Effective, Proxy
from snapshotter.doctor.finding import Change, Finding, error, ok, run, unknown, warning
from snapshotter.doctor.pods import pods
from snapshotter.doctor.samples import NAME
from snapshotter.doctor.unpacking import unpacking
from snapshotter.doctor.wanted import PART, RESTART, Wanted

_CAPABLE = 'capabilities = ["remap-ids"]'
_SPECIAL = ("stargz", "nydus", "soci", "overlaybd")


def judge(facts: ContainerdFacts, wanted: Wanted) -> list[Finding]:
    if facts.hidden:
        return [unknown(PART, "containerd-answers", f"{facts.address}: {facts.failure}")]
    if facts.failure:
        return [
            error(
                PART,
                "containerd-answers",
                f"containerd does not answer on {facts.address}: {facts.failure}",
                "only models of `modelpack mount` can be used",
                run("systemctl start containerd", "# or set [containerd] address; run as root"),
            )
        ]
    found = [_version(facts), *_loaded(facts)]
    if facts.effective is None:
        return [
            *found,
            unknown(PART, "effective-configuration", f"not known: {facts.dump_failure}"),
        ]
    effective, file = facts.effective, facts.config_file
    proxy = our_proxy(effective, wanted)
    found += [_proxy(facts, effective, proxy, wanted)]
    if proxy is not None:
        found += [
            *_exports(facts, proxy, wanted),
            *_capable(facts, proxy),
            *_named(proxy),
        ]
    found += unpacking(facts.release, effective, proxy.name if proxy else NAME, file, wanted)
    if effective.cri:
        found += pods(facts, effective, proxy.name if proxy else NAME, wanted)
    else:
        found.append(unknown(PART, "cri", "CRI is disabled: kubelet cannot use this containerd"))
    found += _as_configured(facts, effective, proxy)
    return found


def our_proxy(effective: Effective, wanted: Wanted) -> Proxy | None:
    """The entry that leads to the daemon."""
    for proxy in effective.proxies:
        if proxy.type == "snapshot" and proxy.address.removeprefix("unix://") == wanted.address:
            return proxy
    return None


def direct(facts: ContainerdFacts, wanted: Wanted) -> bool:
    """Whether CRI takes models by their own manifest, so that image volumes need no stub."""
    if facts.effective is None or facts.release < (2, 1):
        return False
    serious = {"layer-types", "client-path", "unpack-config"}
    return not any(
        finding.name in serious and finding.level == "error" for finding in judge(facts, wanted)
    )


def _version(facts: ContainerdFacts) -> Finding:
    if facts.release < (1, 6):
        return error(
            PART,
            "containerd-version",
            f"containerd {facts.version or 'of an unknown version'} is older than 1.6",
            "nobody has tried models with it",
            run("# install containerd 2.1 or newer"),
        )
    if facts.release < (2, 1):
        return warning(
            PART,
            "containerd-version",
            f"containerd {facts.version} has no image volumes",
            "models come as stub images, for containers that start from one, and not as volumes",
            run("# install containerd 2.1 or newer, where image volumes are wanted"),
        )
    return ok(PART, "containerd-version", f"containerd {facts.version}")


def _loaded(facts: ContainerdFacts) -> Iterator[Finding]:
    for plugin in facts.plugins:
        ours = plugin.type == "io.containerd.snapshotter.v1" and plugin.id == NAME
        cri = "cri" in plugin.type.split(".") or (plugin.type, plugin.id) == (
            "io.containerd.grpc.v1",
            "cri",
        )
        transfer = plugin.type == "io.containerd.transfer.v1"
        if plugin.failure and (ours or cri or transfer):
            yield error(
                PART,
                "plugin-loaded",
                f"containerd's plugin {plugin.type}.{plugin.id} did not load: "
                f"{' '.join(plugin.failure.split())[:300]}",
                "kubelet finds no CRI in this containerd" if cri else "nobody can use it",
                run("journalctl -u containerd | grep -i level=error"),
            )


def _proxy(
    facts: ContainerdFacts, effective: Effective, proxy: Proxy | None, wanted: Wanted
) -> Finding:
    file = facts.config_file
    if proxy is not None:
        return ok(PART, "proxy-plugin", f"snapshotter {proxy.name!r} leads to {wanted.address}")
    other = next((p for p in effective.proxies if p.name == NAME), None)
    what = f"{file} has no proxy plugin for {wanted.address}"
    if other is not None:
        what = f"proxy plugin {NAME!r} is a {other.type} at {other.address}, not {wanted.address}"
    return error(
        PART,
        "proxy-plugin",
        what,
        "containerd does not know the daemon",
        Change(file, proxy_lines(facts, wanted)),
        RESTART,
    )


def proxy_lines(facts: ContainerdFacts, wanted: Wanted) -> str:
    capabilities = f"  {_CAPABLE}\n" if facts.release >= (2, 1) else ""
    return f"""[proxy_plugins.{NAME}]
  type = "snapshot"
  address = "{wanted.address}"
{capabilities}  [proxy_plugins.{NAME}.exports]
    root = "{wanted.root}"
    enable_remote_snapshot_annotations = "true"
"""


def _exports(facts: ContainerdFacts, proxy: Proxy, wanted: Wanted) -> Iterator[Finding]:
    if not proxy.root:
        if facts.release >= (1, 7):
            yield warning(
                PART,
                "exports-root",
                f"proxy plugin {proxy.name!r} exports no root",
                "CRI reports the disk usage of another directory to kubelet",
                Change(facts.config_file, proxy_lines(facts, wanted)),
                RESTART,
            )
    elif not facts.exports_roots.get(proxy.root, False):
        yield error(
            PART,
            "exports-root",
            f"the root of proxy plugin {proxy.name!r}, {proxy.root}, is no directory",
            "CRI asks for its disk usage and fails",
            run(f"mkdir -p -m 711 {proxy.root}"),
        )
    else:
        yield ok(PART, "exports-root", f"its root is {proxy.root}")


def _capable(facts: ContainerdFacts, proxy: Proxy) -> Iterator[Finding]:
    """containerd 2.0 and newer lets a proxy plugin say what it can; 2.0 has our older sample."""
    if facts.release >= (2, 1) and "remap-ids" not in proxy.capabilities:
        yield warning(
            PART,
            "remap-ids",
            f"proxy plugin {proxy.name!r} does not declare that it maps IDs",
            "containerd copies the image of every pod with a user namespace to chown it",
            Change(facts.config_file, f"[proxy_plugins.{proxy.name}]\n  {_CAPABLE}\n"),
            RESTART,
        )


def _named(proxy: Proxy) -> Iterator[Finding]:
    if any(special in proxy.name for special in _SPECIAL):
        yield warning(
            PART,
            "snapshotter-name",
            f"the snapshotter is called {proxy.name!r}",
            f"nerdctl treats names with {', '.join(_SPECIAL)} in a way of their own",
            run(f"# rename [proxy_plugins.{proxy.name}] to {NAME}, wherever it is named"),
        )


def _as_configured(
    facts: ContainerdFacts, effective: Effective, proxy: Proxy | None
) -> Iterator[Finding]:
    """Whether what runs is what the file says now."""
    differences = list(_differences(facts, effective, proxy))
    if differences:
        yield error(
            PART,
            "runs-as-configured",
            f"containerd runs otherwise than {facts.config_file} says: {'; '.join(differences)}",
            "it reads its configuration when it starts",
            RESTART,
        )
    elif facts.changed_since_start:
        yield warning(
            PART,
            "runs-as-configured",
            f"{facts.config_file} was changed after containerd started",
            "it reads its configuration when it starts",
            RESTART,
        )
    else:
        yield ok(PART, "runs-as-configured", f"it runs as {facts.config_file} says")


def _differences(
    facts: ContainerdFacts, effective: Effective, proxy: Proxy | None
) -> Iterable[str]:
    snapshotters = {p.id for p in facts.plugins if p.type == "io.containerd.snapshotter.v1"}
    if proxy is not None and proxy.name not in snapshotters:
        yield f"it knows no snapshotter {proxy.name!r}"
    if facts.running_handlers is None or not effective.cri:
        return
    for handler in sorted({*facts.running_handlers, *effective.handlers}):
        running, configured = facts.running_handlers.get(handler), effective.handlers.get(handler)
        if running != configured:
            yield f"runtime handler {handler!r} has {_snapshotter(running)}"


def _snapshotter(name: str | None) -> str:
    if name is None:
        return "not been loaded"
    return f"snapshotter {name!r}" if name else "the default snapshotter"
