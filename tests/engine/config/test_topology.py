"""The topology: what is accepted, and what each mistake is told."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from holdfast.engine.config import load_topology
from holdfast.errors import ConfigError, UnknownName

SANDBOX = Path(__file__).parents[3] / "include" / "holdfast.yaml"


class EveryVariableIsSet(dict[str, str]):
    def __contains__(self, name: object) -> bool:
        return True

    def __getitem__(self, name: str) -> str:
        return "1"


def smallest() -> dict[str, Any]:
    site = {"cloud": "aws", "region": "r", "jurisdiction": "EU", "connection": "c", "bucket": "b"}
    return {
        "version": 1,
        "sites": {name: dict(site) for name in ("site-a", "site-b", "site-c")},
        "groups": {
            "risk": {
                "owner": "desk",
                "tier": 1,
                "sites": {"active": "site-a", "standby": ["site-b"], "witness": ["site-c"]},
                "objectives": {"rpo_seconds": 30, "rto_seconds": 60},
            }
        },
    }


def write(folder: Path, document: object) -> Path:
    path = folder / "holdfast.yaml"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_the_sandbox_topology_is_valid() -> None:
    topology = load_topology(SANDBOX, EveryVariableIsSet())
    assert topology.group("market-risk").sites.all() == ("aws-eu-west-1", "gcp-europe-west1", "azure-westeurope")


def test_the_smallest_topology_is_valid(tmp_path: Path) -> None:
    topology = load_topology(write(tmp_path, smallest()), {})
    assert topology.group("risk").decision == "approval"
    assert topology.path == (tmp_path / "holdfast.yaml").resolve()


def changed(**paths: object) -> dict[str, Any]:
    document = deepcopy(smallest())
    for path, value in paths.items():
        *parents, last = path.split("__")
        target: Any = document
        for part in parents:
            target = target[part.replace("_dash_", "-")]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return document


def recovering(**recovery: object) -> dict[str, Any]:
    settings = {"site": "site-b", "passphrase": "env:PASSPHRASE", "data_folder": "/data", **recovery}
    return changed(airflow={"recovery": settings})


KEYS = {"writer": ["env:W"], "reader": ["env:R"], "admin": ["env:A"]}


def escrowed(reader: str, escrow: str) -> dict[str, Any]:
    keys = {"writer": ["env:W"], "reader": [reader], "admin": ["env:A"]}
    other = {"site": "site-a", "keys": {**keys, "reader": ["env:OTHER"]}, "airflow_escrow": [escrow]}
    return changed(vaults={"first": {"site": "site-a", "keys": keys}, "second": other})


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (changed(groups__risk__owner=None), ["groups.risk.owner", "required"]),
        (changed(groups__risk__tier=9), ["groups.risk.tier", "less than or equal to 4", "found 9"]),
        (changed(groups__risk__typo=1), ["groups.risk.typo", "not permitted"]),
        (changed(groups__risk__datasets=["prices"]), ["groups.risk.datasets", "(none defined)", "'prices'"]),
        (
            changed(groups__risk__sites={"active": "site-a", "standby": ["nowhere"], "witness": ["site-c"]}),
            ["groups.risk.sites", "site-a, site-b, site-c", "'nowhere'"],
        ),
        (
            changed(groups__risk__sites={"active": "site-a", "standby": ["site-a"], "witness": ["site-c"]}),
            ["groups.risk.sites", "each site in one role", "site-a"],
        ),
        (
            changed(
                groups__risk__sites={"active": "site-a", "standby": ["site-b"]}, groups__risk__decision="automatic"
            ),
            ["groups.risk.decision", "at least three sites", "found 2"],
        ),
        (changed(groups__risk__sites={"active": "site-a", "standby": ["site-b"]}), ["odd number of sites", "found 2"]),
        (changed(datasets={"prices": {"path": "../x"}}), ["datasets.prices.path", "relative path", "'../x'"]),
        (changed(version=2), ["version", "found 2"]),
        (recovering(site="nowhere"), ["airflow.recovery.site", "site-a, site-b, site-c", "'nowhere'"]),
        (recovering(passphrase="hunter2"), ["airflow.recovery.passphrase", "(file|env)"]),
        (recovering(data_folder="data"), ["airflow.recovery.data_folder", "absolute path", "'data'"]),
        (recovering(options={"repo1-s3-key-secret": "x"}), ["airflow.recovery", "no secret", "repo1-s3-key-secret"]),
        (recovering(options={"repo1-s3-token": "x"}), ["airflow.recovery", "no secret", "repo1-s3-token"]),
        (recovering(options={"repo-s3-sse-customer-key": "x"}), ["no secret", "repo-s3-sse-customer-key"]),
        (
            recovering(options={"recovery-option": "primary_conninfo=host=a password=x"}),
            ["airflow.recovery", "recovery-option", "password file"],
        ),
        *(
            (recovering(prefix=prefix), ["airflow.recovery.prefix", "nothing else reads", repr(prefix)])
            for prefix in ("data", "snapshots/x", "evidence", "vault/x", "vault-witness", "runs")
        ),
        (
            changed(vaults={"first": {"site": "site-a", "prefix": "data/x", "keys": KEYS}}),
            ["vaults.first.prefix", "nothing else reads", "'data/x'"],
        ),
        (recovering(options={"repo1-path": "/x"}), ["airflow.recovery", "repo1-path"]),
        (
            {**recovering(prefix="vault/first/x", site="site-a"), "vaults": escrowed("env:R", "env:E")["vaults"]},
            ["airflow.recovery.prefix", "vault first's"],
        ),
        (escrowed("env:R", "env:R"), ["vaults.second.airflow_escrow", "env:R", "a reader of first"]),
        ("version: [1", ["no YAML"]),
        ("- 1", ["not a mapping", "found list"]),
        ("version: 1\nversion: 1\n", ["stands twice"]),
    ],
)
def test_a_mistake_names_the_file_the_path_what_was_expected_and_found(
    tmp_path: Path, document: object, told: list[str]
) -> None:
    path = write(tmp_path, document)
    with pytest.raises(ConfigError) as caught:
        load_topology(path, {})
    message = str(caught.value)
    for part in [str(path), *told]:
        assert part in message
    assert caught.value.exit_code == 2


def two_groups(other_group: str, other_job: str) -> dict[str, Any]:
    document = smallest()
    risk = document["groups"].pop("risk")
    document["datasets"] = {"prices": {"path": "prices"}}
    job = {"dataset": "prices", "model": "model", "command": ["true"], "steps": 1, "checkpoint_every_steps": 1}
    document["training"] = {"bb-cc": job, "cc": job}
    document["groups"] = {"aa": {**risk, "training": ["bb-cc"]}, other_group: {**risk, "training": [other_job]}}
    return document


def test_two_jobs_whose_runs_would_share_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_topology(write(tmp_path, two_groups("aa-bb", "cc")), {})
    for part in ("groups.aa-bb.training", "'aa-bb-cc'", "job cc of group aa-bb", "job bb-cc of group aa"):
        assert part in str(caught.value)
    assert load_topology(write(tmp_path, two_groups("bb", "bb-cc")), {}).group("bb").training == ("bb-cc",)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_topology(tmp_path / "none.yaml", {})


def test_variables_come_from_the_environment_or_their_default(tmp_path: Path) -> None:
    document = changed()
    document["sites"]["site-a"]["bucket"] = "${BUCKET}-${SUFFIX:-x}"
    assert load_topology(write(tmp_path, document), {"BUCKET": "mine"}).site("site-a").bucket == "mine-x"


def test_an_unset_variable_names_its_place(tmp_path: Path) -> None:
    document = changed()
    document["sites"]["site-a"]["bucket"] = "${BUCKET}"
    with pytest.raises(ConfigError, match=r"sites\.site-a\.bucket.*\$BUCKET"):
        load_topology(write(tmp_path, document), {})


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    topology = load_topology(write(tmp_path, smallest()), {})
    with pytest.raises(UnknownName, match=r"expected one of risk; found 'other'"):
        topology.group("other")
