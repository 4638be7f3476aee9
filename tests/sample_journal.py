"""A journal as a drill writes it, for tests of evidence and report: complete, and all of it made up."""

from __future__ import annotations

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

FAULT_AT = datetime(2026, 3, 1, 12, 0, 10, tzinfo=UTC)
DIGEST = "blake3:" + "5f" * 32


def at(seconds: float) -> str:
    """A moment so many seconds after the fault."""
    return (FAULT_AT + timedelta(seconds=seconds)).isoformat()


def step(
    name: str, start: float, end: float, of: str = "plan", status: str = "done", **evidence: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "of": of,
        "status": status,
        "started_at": at(start),
        "ended_at": at(end),
        "seconds": round(end - start, 6),
        "evidence": evidence,
        "error": None,
        "runner": "host/1",
    }


def steady_state(site: str, epoch: int) -> dict[str, Any]:
    return {
        "site": site,
        "epoch": epoch,
        "holds": True,
        "checks": [
            {
                "name": "service_answers",
                "subject": "prices",
                "ok": True,
                "detail": "3 golden answers equal",
                "measured": 0.01,
            },
            {
                "name": "replica_verified",
                "subject": "market at gcp",
                "ok": True,
                "detail": "0.0 s behind",
                "measured": 0.0,
            },
        ],
    }


def sample_journal(**changes: Any) -> dict[str, Any]:
    """A drill in which everything held.

    Args:
        changes: top-level keys to replace; a dict is merged into the one that is there.
    """
    journal: dict[str, Any] = {
        "format": "holdfast.drill-journal/1",
        "drill_id": "20260301T120000Z-abc123",
        "scenario": "site-outage",
        "group": "market-risk",
        "plan": {
            "plan_id": "20260301T120000Z-abc123",
            "verb": "failover",
            "group": "market-risk",
            "source": "aws-eu-west-1",
            "target": "gcp-europe-west1",
            "hash": "sha256:" + "ab" * 32,
            "complete": True,
        },
        "status": "completed",
        "deviated": False,
        "objectives": {"rto_seconds": 60.0, "rpo_seconds": 30.0},
        "rto_seconds": {"from_fault": 8.78, "from_detection": 2.49, "from_decision": 2.39, "without_approval": 8.78},
        "rpo": {
            "seconds": 0.75,
            "objects": 0,
            "bytes": 0,
            "training_steps": 6,
            "by_subject": [{"name": "market", "seconds": 0.0, "objects": 0, "bytes": 0}],
            "by_run": [{"name": "market-risk-volatility", "seconds": 0.75, "training_steps": 6, "step_at_fault": 106}],
            "how": "the old site's bucket, read after the fault was lifted",
        },
        "stale_writes": {
            "attempted": 2,
            "accepted": 0,
            "probes": [
                {
                    "kind": "model snapshot",
                    "site": "aws-eu-west-1",
                    "subject": "volatility",
                    "attempted": 1,
                    "accepted": 0,
                    "written": ["0" * 32],
                    "outcome": "written, never selected",
                },
                {
                    "kind": "traffic switch",
                    "site": "aws-eu-west-1",
                    "subject": "prices",
                    "attempted": 1,
                    "accepted": 0,
                    "written": None,
                    "outcome": "refused: the record was set in a newer epoch",
                },
            ],
        },
        "model": {"digest": DIGEST, "reference_digest": DIGEST, "identical": True},
        "service": {
            "answers_equal": True,
            "services": [
                {
                    "service": "prices",
                    "answers_equal": True,
                    "site": "gcp-europe-west1",
                    "epoch": 4,
                    "answers": [0.125, 0.25],
                    "expected": [0.125, 0.25],
                    "refused": None,
                }
            ],
        },
        "epoch": {"before": 3, "after": 4},
        "steady_state": {"before": steady_state("aws-eu-west-1", 3), "after": steady_state("gcp-europe-west1", 4)},
        "steps": [
            step("prepare", -4, -0.1, of="drill"),
            step("inject", 0, 0.06, of="drill"),
            step(
                "detect",
                0.15,
                6.29,
                verdict="down",
                down=True,
                reasons=["3 failures in a row from 2 vantage points"],
            ),
            step("decide", 6.38, 6.39, automatic=True),
            step("commit_epoch", 6.4, 6.45, epoch=4),
            step("fence", 6.45, 8.7, waited_seconds=2.2),
            step(
                "promote",
                8.7,
                8.74,
                snapshots=[
                    {
                        "subject": "market",
                        "forked_from": "1" * 32,
                        "epoch": 4,
                        "objects": 3,
                        "bytes": 12345,
                        "verified_by": "every byte read again",
                    }
                ],
                runs=[
                    {
                        "job": "volatility",
                        "run": "market-risk-volatility",
                        "forked_from": DIGEST,
                        "step": 100,
                        "resume": "bitwise",
                    }
                ],
            ),
            step("switch_traffic", 8.74, 8.76),
            step("verify", 8.76, 8.78),
            step("resume_training", 8.88, 9.09),
            step("lift", 9.13, 9.15, of="drill"),
        ],
        "fault": {
            "site": "aws-eu-west-1",
            "mode": "down",
            "by": "the sandbox's fault proxy in front of an emulated cloud",
            "injected_at": at(0),
            "known_to_be_in": True,
            "lifted_at": at(9.15),
        },
        "decision": {"automatic": True},
        "training": [
            {"job": "volatility", "run": "market-risk-volatility", "resumed_from_step": 100, "model_digest": DIGEST}
        ],
        "verdict": {
            "detected": True,
            "rto_met": True,
            "rpo_met": True,
            "stale_writes_refused": True,
            "model_identical": True,
            "answers_equal": True,
            "steady_state_restored": True,
            "fault_lifted": True,
            "passed": True,
        },
        "rollback": {"fault_lifted": True, "lifted_at": at(9.15), "reprotected": None},
        "clock_source": {
            "durations": "CLOCK_BOOTTIME of one host",
            "timestamps": "the hosts' wall clocks, UTC",
            "hosts": 1,
        },
        "versions": {"holdfast": "0.1.0", "python": "3.11.2"},
        "error": None,
        "started_at": at(-4),
        "ended_at": at(36.7),
        "run_by": "host/1",
    }
    for key, value in deepcopy(changes).items():
        if isinstance(value, dict) and isinstance(journal.get(key), dict):
            journal[key] = {**journal[key], **value}
        else:
            journal[key] = value
    return journal


def refused_journal() -> dict[str, Any]:
    """A drill that was refused before it began: almost everything is unknown."""
    unknown = dict.fromkeys(
        (
            "detected",
            "rto_met",
            "rpo_met",
            "stale_writes_refused",
            "model_identical",
            "answers_equal",
            "steady_state_restored",
            "fault_lifted",
            "passed",
        )
    )
    return sample_journal(
        status="refused",
        plan=None,
        fault=None,
        decision=None,
        training=None,
        steps=[],
        verdict=unknown,
        rto_seconds=dict.fromkeys(("from_fault", "from_detection", "from_decision", "without_approval")),
        rpo={**dict.fromkeys(("seconds", "objects", "bytes", "training_steps")), "by_subject": None, "by_run": None},
        stale_writes={"attempted": 0, "accepted": None, "probes": []},
        model=dict.fromkeys(("digest", "reference_digest", "identical")),
        service={"answers_equal": None, "services": []},
        epoch={"before": None, "after": None},
        steady_state={"before": None, "after": None},
        rollback={"fault_lifted": None, "lifted_at": None},
        versions={},
        error={
            "error": "OperationInProgress",
            "what": "another drill has this group",
            "where": None,
            "expected": None,
            "found": None,
            "fix": "Wait for it",
        },
    )
