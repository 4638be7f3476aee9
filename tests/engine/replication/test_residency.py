"""Residency is read from the topology before a byte moves."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.engine.config import load_topology
from holdfast.engine.replication import ResidencyRefused, check_hop, residency_for
from holdfast.errors import UnknownName

TOPOLOGY = """
version: 1
sites:
  eu: {cloud: aws, region: r, jurisdiction: EU, connection: c, bucket: b}
  us: {cloud: gcp, region: r, jurisdiction: US, connection: c, bucket: b}
  uk: {cloud: azure, region: r, jurisdiction: UK, connection: c, bucket: b}
residency:
  european: {jurisdictions: [EU, UK]}
  union: {jurisdictions: [EU]}
datasets:
  free: {path: free}
  bound: {path: bound, residency: european}
  tight: {path: tight, residency: union}
training:
  j1: {dataset: bound, model: shared, command: [x], steps: 1, checkpoint_every_steps: 1}
  j2: {dataset: tight, model: shared, command: [x], steps: 1, checkpoint_every_steps: 1}
  j3: {dataset: free, model: loose, command: [x], steps: 1, checkpoint_every_steps: 1}
groups: {}
"""


@pytest.fixture
def topology(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(TOPOLOGY)
    return load_topology(tmp_path / "t.yaml", {})


def go(topology, dataset, target):
    check_hop(dataset, residency_for(topology, dataset), target, topology.sites)


def test_a_dataset_goes_where_its_class_allows(topology):
    go(topology, "bound", "uk")
    go(topology, "free", "us")
    go(topology, "free", "uk")


def test_a_forbidden_target_is_refused_by_name(topology):
    with pytest.raises(ResidencyRefused, match="US") as refused:
        go(topology, "bound", "us")
    assert refused.value.expected == "one of EU, UK"


def test_a_model_is_bound_by_all_the_data_it_was_trained_on(topology):
    assert residency_for(topology, "shared").jurisdictions == ("EU",)
    assert residency_for(topology, "loose") is None
    with pytest.raises(ResidencyRefused):
        go(topology, "shared", "uk")


def test_unknown_names_are_refused(topology):
    with pytest.raises(UnknownName):
        go(topology, "nothing", "uk")
    with pytest.raises(ResidencyRefused, match="a site the topology does not have"):
        go(topology, "bound", "mars")
