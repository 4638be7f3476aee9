"""``holdfast posture``: a table for people, JSON, OCSF, and what its exit code says."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from typer.testing import CliRunner

from holdfast.cli.main import app
from lock_world import moto_server
from ocsf_world import assert_valid

ID = {"cloud": "aws", "region": "eu-west-1", "jurisdiction": "EU", "connection": "c"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def world(moto: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    keys = {"aws_access_key_id": "a", "aws_secret_access_key": "s3cr3t-canary", "endpoint_url": moto}
    s3 = boto3.client("s3", region_name="eu-west-1", **keys)
    plain, versioned = (f"{name}-{uuid.uuid4().hex}" for name in ("plain", "versioned"))
    for name in (plain, versioned):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3.put_bucket_versioning(Bucket=versioned, VersioningConfiguration={"Status": "Enabled"})
    sites = {"site-a": {**ID, "bucket": versioned}, "site-b": {**ID, "bucket": plain}}
    sites["site-c"] = {**ID, "bucket": "[bold]gone[/bold]"}
    path = tmp_path / "holdfast.yaml"
    path.write_text(json.dumps({"version": 1, "sites": sites, "groups": {}}))
    extra = {"endpoint_url": moto, "region_name": "eu-west-1"}
    connection = {"conn_type": "aws", "login": "a", "password": "s3cr3t-canary", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_C", json.dumps(connection))
    monkeypatch.setenv("HOLDFAST_TOPOLOGY", str(path))
    return tmp_path


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["posture", *arguments])


@pytest.mark.parametrize(("site", "code"), [("site-a", 0), ("site-b", 6), ("site-c", 7)])
def test_the_exit_code_tells_pass_fail_and_unknown_apart(world: Path, site: str, code: int) -> None:
    assert run("--site", site, "--check", "versioning").exit_code == code


def test_a_narrow_terminal_shows_every_name_and_finding_whole(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    found = json.loads(run("--site", "site-b", "--json").stdout)["results"]
    lines = run("--site", "site-b").stdout.splitlines()
    for one in found:
        assert any(one["check"] in line and (one["site"] or one["resource"]["uid"]) in line for line in lines), one
        assert any(one["found"].replace("\n", "\N{REPLACEMENT CHARACTER}") in line for line in lines), one


def test_a_failure_counts_before_what_is_unknown(world: Path) -> None:
    done = run("--check", "versioning", "--json")
    assert done.exit_code == 6
    document = json.loads(done.stdout)
    assert document["counts"] == {"pass": 1, "fail": 1, "unknown": 1, "not-applicable": 0}
    assert [result["status"] for result in document["results"]] == ["fail", "unknown", "pass"]


@pytest.mark.parametrize("wrong", [("--site", "nowhere"), ("--check", "no-such-check"), ("--role", "king")])
def test_what_there_is_not_is_bad_input(world: Path, wrong: tuple[str, str]) -> None:
    assert run(*wrong).exit_code == 2


def test_nothing_to_write_the_findings_to_is_bad_input(world: Path) -> None:
    assert run("--check", "versioning", "--ocsf", str(world / "no" / "such")).exit_code == 2


def test_people_read_where_it_was_asked_and_no_markup_of_names(world: Path) -> None:
    said = run("--check", "versioning").stdout
    assert "versioning" in said
    assert "3 checks: 1 pass, 1 fail, 1 unknown" in said
    assert "proves nothing of a cloud" in said


def test_findings_are_written_as_ocsf_and_no_secret_with_them(world: Path) -> None:
    file = world / "findings.jsonl"
    done = run("--ocsf", str(file), "--json")
    events = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(events) == len(json.loads(done.stdout)["results"])
    for event in events:
        assert_valid(event)
    assert {event["compliance"]["status"] for event in events} >= {"Pass", "Fail", "Unknown"}
    assert "s3cr3t-canary" not in done.stdout + file.read_text()
