"""What a policy permits and forbids, and that nothing is allowed by accident."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from holdfast.engine.config import Residency, Site, load_topology
from holdfast.engine.policy import (
    BACK_UP,
    REPLICATE,
    RESTORE,
    TRAIN,
    ResidencyRefused,
    check_hop,
    check_policies,
    decide,
    policy_documents,
    residency_for,
)
from holdfast.errors import ConfigError
from policy_worlds import runtime_of, with_policy

PERMIT_EU = """
@id("in the Union")
permit (principal, action, resource) when { context.target.jurisdiction == "EU" };
"""


def asked(folder, text, *, site="site-b", dataset="prices", **kwargs):
    topology = load_topology(with_policy(folder, text), {})
    return decide(dataset, residency_for(topology, dataset), site, topology.sites, **kwargs)


def test_a_permit_decides_and_is_named(tmp_path):
    found = asked(tmp_path, PERMIT_EU)
    assert found.allowed
    assert found.determining == ("in the Union",)
    assert found.policy == "policies/eu.cedar"
    assert found.reasons == ("copy at site-b is permitted by in the Union",)
    assert found.residency_class == "eu-only"


def test_what_nothing_permits_is_denied(tmp_path):
    found = asked(tmp_path, PERMIT_EU, site="site-c")
    assert not found.allowed
    assert found.determining == ()
    assert "nothing in policies/eu.cedar permits it" in found.reasons[0]


def test_forbid_wins_over_permit(tmp_path):
    permit = "permit (principal, action, resource);\n"
    text = permit + '@id("never b") forbid (principal, action, resource) when { context.target.site == "site-b" };'
    found = asked(tmp_path, text)
    assert (found.allowed, found.determining) == (False, ("never b",))


def test_an_evaluation_error_denies_though_a_permit_applies(tmp_path):
    # Cedar leaves a forbid out that fails, and would allow.
    permit = "permit (principal, action, resource);\n"
    text = permit + "forbid (principal, action, resource) when { 9223372036854775807 + resource.tier > 1 };"
    found = asked(tmp_path, text)
    assert not found.allowed
    assert "overflow" in found.reasons[0]


def test_a_site_the_topology_does_not_have_is_denied_whatever_is_permitted(tmp_path):
    found = asked(tmp_path, "permit (principal, action, resource);", site="moon")
    assert not found.allowed
    assert "no such site" in found.reasons[0]


@pytest.mark.parametrize(
    ("condition", "intent", "source", "allowed"),
    [
        ('action == Holdfast::Action::"train"', TRAIN, None, True),
        ('action == Holdfast::Action::"train"', REPLICATE, None, False),
        ('action in [Holdfast::Action::"store", Holdfast::Action::"restore"]', BACK_UP, None, True),
    ],
)
def test_actions_are_told_apart(tmp_path, condition, intent, source, allowed):
    found = asked(tmp_path, f"permit (principal, {condition}, resource);", intent=intent, source=source)
    assert found.allowed is allowed


@pytest.mark.parametrize(
    ("condition", "intent", "allowed"),
    [
        ('principal.service == "replication" && principal.group == "desk"', REPLICATE, True),
        ('principal.service == "vault"', REPLICATE, False),
        ('resource in Holdfast::Class::"eu-only" && resource.tier == 1 && resource.name == "prices"', REPLICATE, True),
        ('resource is Holdfast::Dataset && resource.class == "eu-only"', REPLICATE, True),
        ("resource is Holdfast::Backup && context.encrypted", BACK_UP, True),
        ("context.encrypted", REPLICATE, False),
        ('context has source && context.source.jurisdiction == "EU"', REPLICATE, True),
        ('context.purpose == "recovery"', RESTORE, True),
        ('context.target.cloud == "local" && context.target.region == "here"', REPLICATE, True),
    ],
)
def test_a_policy_may_speak_of_who_what_where_and_why(tmp_path, condition, intent, allowed):
    text = f"permit (principal, action, resource) when {{ {condition} }};"
    assert asked(tmp_path, text, intent=intent, source="site-a").allowed is allowed


def test_without_a_source_a_condition_on_it_does_not_hold(tmp_path):
    text = 'permit (principal, action, resource) when { context has source && context.source.site == "site-a" };'
    assert not asked(tmp_path, text).allowed


def test_a_list_of_jurisdictions_is_decided_by_a_policy_too(tmp_path):
    file = with_policy(tmp_path, None)
    file.write_text(file.read_text().replace("policy: policies/eu.cedar", "jurisdictions: [EU, 'U\"K']"))
    topology = load_topology(file, {})
    found = decide("prices", residency_for(topology, "prices"), "site-b", topology.sites)
    assert (found.allowed, found.policy) == (True, "residency.eu-only")
    assert found.determining == ("residency.eu-only.jurisdictions",)
    documents = {name: (data, sha256) for name, data, sha256 in policy_documents(topology)}
    assert documents["policies/eu-only.cedar"][1] == found.policy_sha256
    assert b'["EU", "U\\u{22}K"]' in documents["policies/eu-only.cedar"][0]
    with pytest.raises(ResidencyRefused) as refused:
        check_hop("prices", residency_for(topology, "prices"), "site-c", topology.sites)
    assert (refused.value.expected, refused.value.found) == ('one of EU, U"K', "US")


def test_a_jurisdiction_with_cedar_in_it_is_only_a_name():
    evil = 'EU"].contains("EU") }; permit (principal, action, resource); permit (principal, action, resource) when { ["'
    sites = {
        "x": Site(cloud="local", region="r", jurisdiction="US", connection="c", bucket="/b"),
        "y": Site(cloud="local", region="r", jurisdiction=evil, connection="c", bucket="/b"),
    }
    bound = Residency(jurisdictions=(evil,))
    assert not decide("d", bound, "x", sites).allowed
    assert decide("d", bound, "y", sites).allowed


@pytest.mark.parametrize(
    "name", ['a" || true || "', '"}; permit (principal, action, resource); //', "ü\n\t\\", "🔥" * 50]
)
def test_a_subject_with_cedar_in_its_name_is_only_a_name(tmp_path, name):
    topology = load_topology(with_policy(tmp_path, PERMIT_EU), {})
    residency = residency_for(topology, "prices")
    assert not decide(name, residency, "site-c", topology.sites).allowed
    assert decide(name, residency, "site-b", topology.sites).allowed


def test_the_refusal_says_which_policy_and_why(tmp_path):
    topology = load_topology(with_policy(tmp_path, PERMIT_EU), {})
    with pytest.raises(ResidencyRefused) as refused:
        check_hop("prices", residency_for(topology, "prices"), "site-c", topology.sites)
    assert refused.value.expected == "what policies/eu.cedar permits"
    assert "US" in str(refused.value.found)


def test_a_model_is_bound_by_every_class_it_was_trained_on(tmp_path):
    file = with_policy(tmp_path, PERMIT_EU)
    text = (
        file.read_text()
        + """
training:
  one: {dataset: prices, model: both, command: [x], steps: 1, checkpoint_every_steps: 1}
  two: {dataset: other, model: both, command: [x], steps: 1, checkpoint_every_steps: 1}
"""
    )
    text = text.replace(
        "datasets:\n  prices:", "datasets:\n  other:\n    path: other\n    residency: b-only\n  prices:"
    )
    text = text.replace("residency:\n  eu-only:", "residency:\n  b-only:\n    policy: policies/b.cedar\n  eu-only:")
    file.write_text(text)
    (tmp_path / "policies/b.cedar").write_text(
        'permit (principal, action, resource) when { context.target.site == "site-b" };'
    )
    topology = load_topology(file, {})
    bound = residency_for(topology, "both")
    assert decide("both", bound, "site-b", topology.sites).allowed
    here = decide("both", bound, "site-a", topology.sites)
    assert (here.allowed, here.policy, here.residency_class) == (False, "policies/b.cedar", "b-only")
    assert len(here.reasons) == 2


def test_one_text_decides_for_a_whole_run(tmp_path):
    topology = load_topology(with_policy(tmp_path, PERMIT_EU), {})
    before = decide("prices", residency_for(topology, "prices"), "site-b", topology.sites)
    (tmp_path / "policies/eu.cedar").write_text("forbid (principal, action, resource);")
    after = decide("prices", residency_for(topology, "prices"), "site-a", topology.sites)
    assert (after.allowed, after.policy_sha256) == (True, before.policy_sha256)
    fresh = load_topology(topology.path, {})
    assert not decide("prices", residency_for(fresh, "prices"), "site-a", fresh.sites).allowed


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("", 1, "permits nothing"),
        ("// nothing but words\n", 1, "permits nothing"),
        ("permit (principal, action, resource);\n\npermit (principal,\n  acton, resource);", 4, "no Cedar"),
        ("permit (principal, action, resource)\nwhen { 1 == };", 2, "no Cedar"),
        ("permit (principal, action, resource) # x", 1, "no Cedar"),
        ("permit (principal, action, resource)", 1, "no Cedar"),
        ('permit (principal, action, resource)\nwhen {\n context.target.jurisdictoin == "EU" };', 3, "jurisdictoin"),
        ('permit (principal,\n action == Holdfast::Action::"cpoy", resource);', 2, "cpoy"),
        ('// ; "\npermit (principal, action, resource) when { "a;b" == "//" };\nx', 3, "no Cedar"),
        ('permit (principal, action, resource) when { resource.tier == "1" && 1 + "a" == 2 };', 1, "schema"),
        ('permit (principal, action, resource) when { context.source.site == "a" };', 1, "source"),
        ("permit (principal == ?principal, action, resource);", 1, "template"),
        ("permit (principal, action, resource) when { " + "(" * 5000 + "true" + ")" * 5000 + " };", 1, "too deeply"),
        ("permit (principal, action, resource) when { " + "+ 1 " * 3000 + "};", 1, "too"),
        ("permit (principal, action, resource) when { " + " || ".join(["true"] * 3000) + " };", 1, "too"),
        ("permit (principal, action, resource) when { " + "if true then true else " * 3000 + "true };", 1, "too"),
    ],
)
def test_a_wrong_policy_is_one_error_with_file_and_line(tmp_path, text, line, says):
    topology = load_topology(with_policy(tmp_path, text), {})
    with pytest.raises(ConfigError) as wrong:
        check_policies(topology)
    assert wrong.value.where == f"policies/eu.cedar, line {line}"
    assert says in wrong.value.what
    with pytest.raises(ConfigError):
        runtime_of(topology.path, tmp_path / "state")


@pytest.mark.parametrize(
    "name", ["../outside.cedar", "/etc/passwd", "policies/../../outside.cedar", "a//b", "policies/\0"]
)
def test_a_path_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.cedar").write_text(PERMIT_EU)
    file = with_policy(tmp_path / "in", None)
    text = file.read_text().replace("policies/eu.cedar", '"' + name.replace("\0", "\\0") + '"')
    file.write_text(text)
    with pytest.raises(ConfigError, match="relative path"):
        load_topology(file, {})


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "outside.cedar").write_text(PERMIT_EU)
    topology = load_topology(with_policy(tmp_path / "in", None), {})
    (tmp_path / "in/policies").mkdir()
    (tmp_path / "in/policies/eu.cedar").symlink_to(tmp_path / "outside.cedar")
    with pytest.raises(ConfigError, match="outside the topology's folder"):
        check_policies(topology)


def test_files_that_are_none_are_refused(tmp_path):
    topology = load_topology(with_policy(tmp_path, None), {})
    file = tmp_path / "policies/eu.cedar"
    with pytest.raises(ConfigError, match="cannot be read"):
        check_policies(topology)
    file.mkdir(parents=True)
    with pytest.raises(ConfigError, match="no file"):
        check_policies(topology)
    file.rmdir()
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="no text"):
        check_policies(topology)
    file.write_bytes(b"/" * (256 * 1024 + 1))
    with pytest.raises(ConfigError, match="too large"):
        check_policies(topology)


def test_the_policy_beside_the_example_says_what_its_list_says(tmp_path):
    text = (Path(__file__).parents[3] / "include/policies/eu-only.cedar").read_text()
    topology = load_topology(with_policy(tmp_path, text), {})
    check_policies(topology)
    bound = residency_for(topology, "prices")
    for intent in (REPLICATE, TRAIN, RESTORE, BACK_UP):
        assert decide("prices", bound, "site-b", topology.sites, intent=intent).allowed
        assert not decide("prices", bound, "site-c", topology.sites, intent=intent).allowed
    plain = decide("prices", bound, "site-b", topology.sites, intent=replace(BACK_UP, encrypted=False))
    assert plain.determining == ("eu-only: no backup in the clear",)


@pytest.mark.parametrize("settings", ["{}", "{jurisdictions: [EU], policy: policies/eu.cedar}"])
def test_a_class_says_where_in_exactly_one_way(tmp_path, settings):
    file = with_policy(tmp_path, PERMIT_EU)
    file.write_text(file.read_text().replace("\n    policy: policies/eu.cedar", f" {settings}"))
    with pytest.raises(ConfigError, match="`jurisdictions` or `policy`"):
        load_topology(file, {})


def test_a_topology_without_residency_never_imports_cedar(tmp_path):
    from folders import make_folders

    code = (
        "import sys; from policy_worlds import runtime_of; from pathlib import Path;"
        f"runtime_of(Path({str(make_folders(tmp_path))!r}), Path({str(tmp_path / 's')!r}));"
        "print('cedarpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_env(), check=True)
    assert done.stdout.strip() == "False"


def _env():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
