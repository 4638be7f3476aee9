"""Airflow's audit rows and Holdfast's decisions, many and varied, made fast: one JSON line each.

Airflow's as its REST API v2 gives them, of tasks mostly, people seldom; of Holdfast's own records those that are many:
each copy that was allowed or denied (docs/formats/decision.md), chained. The same seed gives the same records.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import sha256

from cloud_events import Draw

_BY_TASKS = ("running", "success", "running", "success", "queued", "scheduled", "up_for_retry", "failed")
_BY_PEOPLE = ("trigger_dag_run", "patch_dag", "post_connection", "patch_variable", "clear_dag_run", "delete_dag")


def airflow(count: int, seed: int = 1) -> Iterator[bytes]:
    """Rows of the audit log: of tasks' states, one of sixteen of what a person did, by way of the API."""
    draw = Draw(seed, count)
    for row in range(count):
        a, b = draw.low[row % 8191], draw.index[row % 8192]
        dag, when = f"market_risk_{a % 300}", draw.time(row)
        if b % 16:
            event, owner, extra = _BY_TASKS[b % 8], "airflow", "null"
            task = f'"feature_build.part_{b % 40}"'
        else:
            event, owner, task = _BY_PEOPLE[b // 16 % 6], f"ada.{a % 60}", "null"
            extra = f'"{{\\"dag_id\\": \\"{dag}\\", \\"is_paused\\": false, \\"method\\": \\"PATCH\\"}}"'
        yield (
            f'{{"event_log_id":{row + 1},"when":"{when}Z","dag_id":"{dag}","task_id":{task},'
            f'"run_id":"scheduled__{when[:13]}:00:00+00:00","map_index":{b % 5 - 1},"try_number":{1 + (b % 23 == 0)},'
            f'"event":"{event}","logical_date":"{when[:13]}:00:00Z","owner":"{owner}","extra":{extra},'
            f'"dag_display_name":"{dag}","task_display_name":{task}}}'
        ).encode()


def holdfast(count: int, seed: int = 1) -> Iterator[bytes]:
    """Decisions on copies, one of ten denied."""
    draw, previous = Draw(seed, count), "0" * 64
    policy = sha256(b"policy").hexdigest()
    for row in range(count):
        a, b = draw.low[row % 8191], draw.index[row % 8192]
        cloud, region = (("gcp", "europe-west1"), ("azure", "westeurope"), ("aws", "us-east-1"))[b % 3]
        allowed = b % 10 != 0
        site, name, writer = f"{cloud}-{region}", f"features-{a % 200}", "worker-0-5acd756b"
        line = (
            f'{{"action":"copy","allowed":{"true" if allowed else "false"},"at":"{draw.time(row)}Z",'
            f'"determining":["eu-only"],"encrypted":{"true" if a % 2 else "false"},"format":"holdfast.decision/1",'
            f'"id":"{writer}-{row + 1:08}","policy":"policies/eu-only.cedar","policy_sha256":"{policy}",'
            f'"previous":"{previous}","principal":{{"group":"market-risk","service":"replication"}},'
            f'"purpose":"replication","resource":{{"class":"eu-only","group":"market-risk","kind":"dataset",'
            f'"name":"{name}","tier":{a % 3}}},"seq":{row + 1},"source":{{"cloud":"aws","jurisdiction":"EU",'
            f'"region":"eu-west-1","site":"aws-eu-west-1"}},"target":{{"cloud":"{cloud}","jurisdiction":"EU",'
            f'"region":"{region}","site":"{site}"}},"why":"copy at {site} is '
            f'{"permitted" if allowed else "refused"} by eu-only","writer":"{writer}"}}'
        ).encode()
        previous = sha256(line).hexdigest()
        yield line
