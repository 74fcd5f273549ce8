"""What containerd's configuration means for models."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from doctor_facts import VERSIONS, WANTED, effective, good, names, spoilt

from snapshotter.artifact.mediatypes import MODEL_LAYER_TYPES
from snapshotter.doctor.containerd import Plugin, config_of, gather, started_at
from snapshotter.doctor.effective import Proxy, parse
from snapshotter.doctor.finding import Level
from snapshotter.doctor.rules import direct, judge

BAD = (Level.ERROR, Level.WARNING)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_samples_are_in_order(version: tuple[int, int]) -> None:
    findings = judge(good(version, default=True), WANTED)
    expected = set() if version >= (2, 1) else {"containerd-version"}
    assert names(findings, *BAD) == expected


def test_pods_of_the_default_handler_are_warned_of() -> None:
    findings = judge(good(), WANTED)
    assert names(findings, *BAD) == {"pods"}
    (pods,) = [f for f in findings if f.name == "pods"]
    assert pods.level is Level.WARNING
    assert "empty directory" in pods.what


def test_without_handler_and_default_no_pod_can_mount_a_model() -> None:
    findings = spoilt(snapshotter="overlayfs", handlers={"runc": ""})
    (pods,) = [f for f in findings if f.name == "pods"]
    assert pods.level is Level.ERROR
    assert "runtimes.modelpack" in pods.changes[0].text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("use_local_image_pull", True),
        ("disable_snapshot_annotations", False),
        ("discard_unpacked_layers", True),
        ("max_concurrent_downloads", 10),
        ("image_pull_with_sync_fs", True),
    ],
)
def test_what_takes_cri_past_the_transfer_service_is_an_error(key: str, value: object) -> None:
    images = {**effective((2, 1)).images, key: value}
    findings = spoilt(images=images)
    assert names(findings, Level.ERROR) == {"client-path"}
    (found,) = [f for f in findings if f.level is Level.ERROR]
    assert key in found.changes[0].text
    # The same settings are the sample's own before 2.1, where there is no other way.
    assert "client-path" not in names(spoilt((1, 7), images=images), *BAD)


def test_credentials_in_containerds_own_file_take_cri_past_the_transfer_service() -> None:
    assert names(spoilt(inline_registry=("auths",)), Level.ERROR) == {"client-path"}


def test_a_missing_layer_type_is_an_error_that_names_it() -> None:
    first, second = effective((2, 1)).unpack
    lacking = replace(second, layer_types=MODEL_LAYER_TYPES[1:])
    findings = spoilt(unpack=(first, lacking))
    (found,) = [f for f in findings if f.level is Level.ERROR]
    assert found.name == "layer-types"
    assert MODEL_LAYER_TYPES[0] in found.what
    assert MODEL_LAYER_TYPES[0] in found.changes[0].text


def test_an_unpack_config_for_another_architecture_does_not_count() -> None:
    entries = tuple(replace(u, platform="linux/s390x") for u in effective((2, 1)).unpack)
    assert "unpack-config" in names(spoilt(unpack=entries), Level.ERROR)


def test_the_entry_for_overlayfs_is_missed_before_2_1_as_well() -> None:
    first, _ = effective((1, 7)).unpack
    assert names(spoilt((1, 7), unpack=(first,)), Level.ERROR) == {"unpack-config"}


def test_a_snapshotter_that_does_not_exist_keeps_cri_from_loading() -> None:
    entries = effective((2, 1)).unpack
    unknown = replace(entries[0], snapshotter="stargz")
    (found,) = [f for f in spoilt(unpack=(*entries, unknown)) if f.level is Level.ERROR]
    assert "stargz" in found.what


def test_a_proxy_plugin_that_leads_elsewhere_is_no_way_to_the_daemon() -> None:
    other = Proxy("modelpack", "snapshot", "/run/other.sock", "/var/lib/modelpack-snapshotter")
    (found,) = [f for f in spoilt(proxies=(other,)) if f.level is Level.ERROR]
    assert found.name == "proxy-plugin"
    assert "/run/other.sock" in found.what
    assert WANTED.address in found.changes[0].text


def test_a_snapshotter_that_does_not_say_it_maps_ids_is_warned_of() -> None:
    (proxy,) = effective((2, 1)).proxies
    findings = spoilt(proxies=(replace(proxy, capabilities=()),))
    (found,) = [f for f in findings if f.level is Level.WARNING]
    assert found.name == "remap-ids"
    assert 'capabilities = ["remap-ids"]' in found.changes[0].text
    # containerd 1.7 lets no proxy plugin say so.
    (proxy,) = effective((1, 7)).proxies
    assert proxy.capabilities == ()
    assert "remap-ids" not in names(spoilt((1, 7), proxies=(proxy,)), *BAD)


def test_a_runc_that_cannot_map_ids_is_warned_of_by_its_handlers() -> None:
    facts = replace(good(default=True), user_namespaces={"runc": True, "modelpack": False})
    (found,) = [f for f in judge(facts, WANTED) if f.level is Level.WARNING]
    assert found.name == "user-namespaces"
    assert "modelpack" in found.what
    able = replace(facts, user_namespaces={"runc": True})
    assert "user-namespaces" in names(judge(able, WANTED), Level.OK)


def test_a_name_that_nerdctl_knows_is_warned_of() -> None:
    (proxy,) = effective((2, 1)).proxies
    named = replace(proxy, name="my-nydus")
    assert "snapshotter-name" in names(spoilt(proxies=(named,)), Level.WARNING)


def test_an_exported_root_that_does_not_exist_is_an_error() -> None:
    findings = judge(replace(good(), exports_roots={}), WANTED)
    assert names(findings, Level.ERROR) == {"exports-root"}


def test_a_plugin_that_did_not_load_is_an_error_with_its_reason() -> None:
    plugins = [*good().plugins, Plugin("io.containerd.grpc.v1", "cri", "no such snapshotter")]
    findings = judge(replace(good(), plugins=plugins), WANTED)
    (found,) = [f for f in findings if f.name == "plugin-loaded"]
    assert "no such snapshotter" in found.what


@pytest.mark.parametrize("version", [(1, 6), (1, 7)])
def test_before_2_1_pods_need_hosts_toml(version: tuple[int, int]) -> None:
    assert "config-path" in names(spoilt(version, config_path=""), Level.ERROR)
    assert "config-path" not in names(spoilt((2, 1), config_path=""), *BAD)


def test_a_mirror_that_refuses_digests_is_in_the_way_of_image_volumes() -> None:
    facts = good(default=True)
    assert facts.effective is not None
    asked = replace(facts.effective, config_path="/x:/etc/containerd/certs.d")
    facts = replace(facts, effective=asked)
    assert names(judge(facts, WANTED), *BAD) == set()
    refusing = replace(WANTED, pinned="refuse")
    assert names(judge(facts, refusing), *BAD) == {"pinned"}


def test_what_runs_and_what_is_configured_are_compared() -> None:
    facts = good(default=True)
    unread = replace(facts, plugins=[])
    assert names(judge(unread, WANTED), *BAD) == {"runs-as-configured"}
    other = replace(facts, running_handlers={"runc": ""})
    assert names(judge(other, WANTED), *BAD) == {"runs-as-configured"}
    newer = replace(facts, changed_since_start=True)
    assert names(judge(newer, WANTED), *BAD) == {"runs-as-configured"}


def test_image_volumes_need_every_layer_type_and_the_transfer_service() -> None:
    assert direct(good(), WANTED)
    assert not direct(good((1, 7)), WANTED)
    assert not direct(replace(good(), effective=None), WANTED)


def test_a_disabled_cri_is_not_held_against_a_node() -> None:
    disabled = parse({"disabled_plugins": ["io.containerd.grpc.v1.cri"]})
    assert not disabled.cri
    assert names(spoilt(cri=False), *BAD) == set()


def test_a_containerd_that_is_not_there_is_one_error(tmp_path: Path) -> None:
    (found,) = judge(gather(tmp_path / "containerd.sock"), WANTED)
    assert found.level is Level.ERROR
    assert "no such socket" in found.what


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["containerd"], "/etc/containerd/config.toml"),
        (["containerd", "-c", "/a.toml", "-a", "/b.sock"], "/a.toml"),
        (["containerd", "--config=/a.toml"], "/a.toml"),
        (["containerd", "--config", "a.toml", ""], "/srv/a.toml"),
        (["containerd", "--log-level", "debug"], "/etc/containerd/config.toml"),
    ],
)
def test_the_configuration_file_is_the_one_containerd_was_started_with(
    arguments: list[str], expected: str
) -> None:
    assert config_of(arguments, "/srv") == expected


def test_when_a_process_started_is_known() -> None:
    assert started_at(os.getpid()) > started_at(1) > 0
