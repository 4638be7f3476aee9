"""Billing interfaces are asked within a budget, page by page, and what they refuse or lack is unknown.

Cost Explorer is moto's, primed with answers; Cost Management and BigQuery are strict stubs of this file behind the
vendors' own clients. None of the three has been asked on a real cloud.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from cost_world import OCTOBER, CostWorld
from holdfast.clock import FakeClock
from holdfast.engine.config import Connection
from holdfast.engine.cost.asking import Asking, Budget
from holdfast.engine.cost.aws_cost_explorer import CostExplorer
from holdfast.engine.cost.azure_cost_management import CostManagement
from holdfast.engine.cost.bill import BillState
from holdfast.engine.cost.errors import BillingRefused, BillingUnavailable, OverBudget
from holdfast.engine.cost.gcp_billing import BigQueryBilling
from holdfast.engine.cost.periods import month_of
from holdfast.engine.cost.report import Look
from holdfast.errors import ConfigError
from world import AWS, GROUP

PERIOD = month_of(OCTOBER)
ACCOUNT = "123456789012"
NOBODY = Connection(conn_id="x", conn_type="azure")


def budget(cost: str = "1", requests: int = 50) -> Budget:
    return Budget(Decimal(cost), requests)


def prime(moto: str, *results: dict[str, Any]) -> CostExplorer:
    httpx.post(f"{moto}/moto-api/reset")
    answer = httpx.post(f"{moto}/moto-api/static/ce/cost-and-usage-results", json={"results": list(results)})
    assert answer.status_code == 201
    extra = {"endpoint_url": moto}
    connection = Connection(conn_id="x", conn_type="aws", login="a", password="b", extra=extra)
    return CostExplorer(ACCOUNT, connection, clock=FakeClock())


def page(*groups: tuple[str, str], token: str | None = None) -> dict[str, Any]:
    found = [
        {
            "Keys": [ACCOUNT, service],
            "Metrics": {name: {"Amount": amount, "Unit": "USD"} for name in ("AmortizedCost", "UnblendedCost")},
        }
        for service, amount in groups
    ]
    made = {"ResultsByTime": [{"TimePeriod": {}, "Groups": found, "Estimated": True}], "DimensionValueAttributes": []}
    return made if token is None else {**made, "NextPageToken": token}


def test_cost_explorer_is_read_page_by_page_and_each_page_is_paid(moto):
    api = prime(moto, page(("Amazon S3", "0.0101516483"), token="two"), page(("AmazonEC2", "12.3")))
    spent = budget()
    lines = api.ask(PERIOD, spent)
    assert [(one.service, one.effective) for one in lines] == [
        ("Amazon S3", Decimal("0.0101516483")),
        ("AmazonEC2", Decimal("12.3")),
    ]
    assert (spent.spent, spent.requests) == (Decimal("0.02"), 2)


def test_a_page_beyond_the_budget_is_not_asked_for(moto):
    api = prime(moto, page(("Amazon S3", "1"), token="two"), page(("AmazonEC2", "2")))
    with pytest.raises(OverBudget) as caught:
        api.ask(PERIOD, budget("0.01"))
    assert caught.value.exit_code == 3
    assert api.ask(PERIOD, budget("0.05"))[1].effective == 2  # the second answer is still there to be given


def test_the_same_page_again_is_no_end(moto):
    api = prime(moto, page(("Amazon S3", "1"), token="two"), page(("Amazon S3", "1"), token="two"))
    with pytest.raises(BillingUnavailable, match="the same page again"):
        api.ask(PERIOD, budget())


class Client:
    """boto3's client, as far as it is used: it fails as told."""

    def __init__(self, *codes: str) -> None:
        self.codes = list(codes)
        self.asked = 0

    def get_cost_and_usage(self, **_request: Any) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        self.asked += 1
        if self.codes:
            raise ClientError({"Error": {"Code": self.codes.pop(0)}}, "GetCostAndUsage")
        return page(("Amazon S3", "1"))


def test_a_throttled_request_is_repeated_within_the_budget_and_a_refused_one_never():
    client = Client("ThrottlingException")
    spent = budget()
    assert CostExplorer(ACCOUNT, NOBODY, clock=FakeClock(), client=client).ask(PERIOD, spent)
    assert spent.spent == Decimal("0.02")  # a repetition costs as much as a request
    client = Client("AccessDeniedException")
    with pytest.raises(BillingRefused, match="unknown"):
        CostExplorer(ACCOUNT, NOBODY, clock=FakeClock(), client=client).ask(PERIOD, budget())
    assert client.asked == 1
    client = Client(*["ThrottlingException"] * 9)
    with pytest.raises(BillingUnavailable):
        CostExplorer(ACCOUNT, NOBODY, clock=FakeClock(), client=client).ask(PERIOD, budget())
    assert client.asked == 3


@contextmanager
def serving(answer: Callable[[str, str, Any], tuple[int, Any, dict[str, str]]]) -> Iterator[str]:
    """An HTTP server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            status, document, headers = answer(self.command, self.path, body)
            data = json.dumps(document).encode() if not isinstance(document, bytes) else document
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(data)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_POST = do_GET = do

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


SCOPE = "/subscriptions/0000-1111"


class CostManagementStub:
    """Checks every member of a query, as the REST reference gives them, and answers in pages of one row."""

    def __init__(self, rows: dict[str, list[list[Any]]]) -> None:
        self.rows = rows
        self.fails: list[tuple[int, dict[str, str]]] = []
        self.asked = 0
        self.host = ""
        self.link = ""

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        self.asked += 1
        if self.fails:
            status, headers = self.fails.pop(0)
            return status, {"error": {"code": "x"}}, headers
        url = urlsplit(path)
        assert (method, url.path) == ("POST", f"{SCOPE}/providers/Microsoft.CostManagement/query")
        query = parse_qs(url.query)
        assert query["api-version"] == ["2024-08-01"]
        assert set(body) == {"type", "timeframe", "timePeriod", "dataset"}
        assert body["type"] in ("ActualCost", "AmortizedCost", "Usage")
        assert body["timeframe"] == "Custom"
        assert body["timePeriod"] == {"from": "2026-10-01T00:00:00Z", "to": "2026-10-31T23:59:59Z"}
        assert body["dataset"]["aggregation"] == {"totalCost": {"name": "Cost", "function": "Sum"}}
        assert {one["type"] for one in body["dataset"]["grouping"]} == {"Dimension"}
        at = int(query.get("$skiptoken", ["0"])[0])
        rows = self.rows[body["type"]]
        link = self.link or f"{self.host}{url.path}?api-version=2024-08-01&$skiptoken={at + 1}"
        columns = [
            {"name": "totalCost", "type": "Number"},
            {"name": "SubscriptionId", "type": "String"},
            {"name": "ServiceName", "type": "String"},
            {"name": "Currency", "type": "String"},
        ]
        properties = {"nextLink": link if at + 1 < len(rows) else None, "columns": columns, "rows": rows[at : at + 1]}
        return 200, {"properties": properties}, {}


@contextmanager
def management(stub: CostManagementStub) -> Iterator[CostManagement]:
    from azure.core import PipelineClient
    from azure.core.pipeline.policies import ContentDecodePolicy

    with serving(stub) as host:
        stub.host = host
        client = PipelineClient(host, policies=[ContentDecodePolicy()])
        yield CostManagement(SCOPE, NOBODY, clock=FakeClock(), client=client, host=host)


ROWS = {
    "AmortizedCost": [[0.1, "0000-1111", "Storage", "EUR"], [12345.123456789, "0000-1111", "Compute", "EUR"]],
    "ActualCost": [[0.3, "0000-1111", "Storage", "EUR"], [7, "0000-1111", "Refunds", "EUR"]],
}


def test_cost_management_follows_its_pages_and_its_numbers_stay_decimal():
    with management(CostManagementStub(ROWS)) as api:
        found = {one.service: one for one in api.ask(PERIOD, budget())}
    assert found["Storage"].effective == Decimal("0.1")
    assert found["Storage"].billed == Decimal("0.3")
    assert found["Compute"].effective == Decimal("12345.123456789")
    assert (found["Refunds"].effective, found["Refunds"].billed) == (0, 7)
    assert found["Storage"].sub_account == "/subscriptions/0000-1111"


def test_cost_management_waits_as_long_as_it_says_and_not_longer_than_a_minute():
    stub = CostManagementStub(ROWS)
    stub.fails = [(429, {"x-ms-ratelimit-microsoft.costmanagement-qpu-retry-after": "40"})]
    with management(stub) as api:
        began = api._clock.monotonic()
        assert api.ask(PERIOD, budget())
        assert api._clock.monotonic() - began == 40
    stub.fails, stub.asked = [(429, {"Retry-After": "3600"})], 0
    with management(stub) as api, pytest.raises(BillingUnavailable, match="throttling"):
        api.ask(PERIOD, budget())
    assert stub.asked == 1


@pytest.mark.parametrize("status", [401, 403, 404])
def test_cost_management_that_refuses_is_unknown(status):
    stub = CostManagementStub(ROWS)
    stub.fails = [(status, {})]
    with management(stub) as api, pytest.raises(BillingRefused, match=f"HTTP {status}"):
        api.ask(PERIOD, budget())


def test_a_token_goes_to_no_other_host_and_a_scope_is_a_scope():
    stub = CostManagementStub(ROWS)
    stub.link = "http://169.254.169.254/latest"
    with management(stub) as api, pytest.raises(BillingUnavailable, match="the same host"):
        api.ask(PERIOD, budget())
    assert stub.asked == 1
    for scope in ("subscriptions/x", "/subscriptions/../x", "/etc/passwd", "/subscriptions/x?y=z"):
        with pytest.raises(ConfigError):
            CostManagement(scope, NOBODY)


TABLE = "dr-project.gcp_billing_immutable_eu.gcp_billing_export_focus_01AB"


class BigQueryStub:
    """jobs.insert and jobs.getQueryResults; a job is parsed by Google's own model."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.jobs: list[Any] = []
        self.fails: list[int] = []

    def __call__(self, method: str, path: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        from google.cloud.bigquery.job import QueryJobConfig

        if self.fails:
            status = self.fails.pop(0)
            return status, {"error": {"code": status, "message": "told so", "errors": [{"reason": "x"}]}}, {}
        if method == "POST" and urlsplit(path).path == "/bigquery/v2/projects/dr-project/jobs":
            config = QueryJobConfig.from_api_repr(body["configuration"])
            assert config.to_api_repr()["query"] == body["configuration"]["query"]
            self.jobs.append(config)
            reference = {"projectId": "dr-project", "jobId": "job-1", "location": "EU"}
            statistics = {"query": {"totalBytesProcessed": str(self.size)}, "totalBytesProcessed": str(self.size)}
            job = {**body, "jobReference": reference, "statistics": statistics, "status": {"state": "DONE"}}
            return 200, job, {}
        assert urlsplit(path).path == "/bigquery/v2/projects/dr-project/queries/job-1"
        names = ("sub_account", "service", "currency", "effective", "billed")
        schema = {"fields": [{"name": name, "type": "STRING", "mode": "NULLABLE"} for name in names]}
        values = ("my-project", "Cloud Storage", "USD", "0.123456789123456789", "1")
        rows = [{"f": [{"v": value} for value in values]}]
        reference = {"projectId": "dr-project", "jobId": "job-1", "location": "EU"}
        return (
            200,
            {"jobComplete": True, "jobReference": reference, "totalRows": "1", "schema": schema, "rows": rows},
            {},
        )


@contextmanager
def bigquery_of(stub: BigQueryStub, price: str = "6.25") -> Iterator[BigQueryBilling]:
    from google.api_core.client_options import ClientOptions
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    with serving(stub) as host:
        client = bigquery.Client("dr-project", AnonymousCredentials(), client_options=ClientOptions(api_endpoint=host))
        yield BigQueryBilling(TABLE, NOBODY, price_per_tib=Decimal(price), client=client)


def test_bigquery_is_asked_for_the_size_first_and_may_not_bill_more():
    stub = BigQueryStub(size=50 * 1024**3)
    spent = budget()
    with bigquery_of(stub) as api:
        (found,) = api.ask(PERIOD, spent)
    assert (found.service, found.effective, found.billed) == ("Cloud Storage", Decimal("0.123456789123456789"), 1)
    dry, real = stub.jobs
    assert (dry.dry_run, dry.maximum_bytes_billed) == (True, None)
    assert (real.dry_run, real.maximum_bytes_billed) == (False, 50 * 1024**3)
    assert [one.name for one in real.query_parameters] == ["begin", "end"]
    assert spent.spent == Decimal(50) / 1024 * Decimal("6.25")


def test_a_query_beyond_the_budget_is_not_made():
    stub = BigQueryStub(size=1024**4)
    with bigquery_of(stub) as api, pytest.raises(OverBudget):
        api.ask(PERIOD, budget("1"))
    assert [one.dry_run for one in stub.jobs] == [True]


def test_bigquery_that_refuses_is_unknown_and_a_table_is_a_table():
    stub = BigQueryStub(size=1)
    stub.fails = [403]
    with bigquery_of(stub) as api, pytest.raises(BillingRefused, match="told so"):
        api.ask(PERIOD, budget())
    for table in ("a.b", "p.d.t` WHERE 1=1; --", "dr-project.d.t;x"):
        with pytest.raises(ConfigError):
            BigQueryBilling(table, NOBODY, price_per_tib=Decimal(1))


class Api:
    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.asked = 0

    def ask(self, period: Any, budget: Budget) -> Any:
        from holdfast.engine.cost.asking import AskedLine

        self.asked += 1
        budget.take(Decimal("0.01"), "here")
        if self.errors:
            raise self.errors.pop(0)
        return (AskedLine(ACCOUNT, "Amazon S3", "USD", Decimal("5"), Decimal("6")),)


def look(world: CostWorld, folder: Path, api: Api) -> Look:
    asking = Asking(world.runtime, folder, {AWS: api})  # type: ignore[dict-item]
    return Look(world.runtime, PERIOD, exports=world.stores, sites={}, asking=asking)


APIS = {AWS: {"kind": "cost-explorer", "connection": "x", "scope": ACCOUNT}}
RULES = [{"sub_account": ACCOUNT, "group": GROUP, "role": "standby", "site": AWS}]
EXPORTS = {"aws-bill": {"site": AWS, "bucket": "bills-aws", "prefix": "exports"}}


def is_answered(found: Look) -> bool:
    return all(part.state.is_known for part in found.standby.parts)


def test_an_answer_stands_in_for_a_missing_export_and_is_kept(tmp_path):
    world, api = CostWorld(apis=APIS, rules=RULES, exports=EXPORTS), Api()
    found = look(world, tmp_path, api).standby
    assert found.state is BillState.OPEN
    assert [(one.site, one.cost.effective, one.cost.billed) for one in found.lines] == [(AWS, 5, 6)]
    assert is_answered(look(world, tmp_path, api))
    assert api.asked == 1
    world.clock.advance(9 * 3600)  # the period is 29 days over: it has settled, and was asked after that
    assert is_answered(look(world, tmp_path, api))
    assert api.asked == 1
    assert {oct(one.stat().st_mode & 0o777) for one in tmp_path.iterdir()} == {"0o600"}


def test_an_answer_of_a_period_that_changes_is_asked_for_again_after_hours(tmp_path):
    world, api = CostWorld(apis=APIS, rules=RULES, exports=EXPORTS), Api()
    world.clock = world.runtime.clock = FakeClock(OCTOBER + timedelta(days=35))
    assert is_answered(look(world, tmp_path, api))
    world.clock.advance(9 * 3600)
    assert is_answered(look(world, tmp_path, api))
    assert api.asked == 2
    next(tmp_path.iterdir()).write_text("{")
    assert is_answered(look(world, tmp_path, api))
    assert api.asked == 3


def test_nothing_is_asked_that_could_not_be_kept(tmp_path):
    (tmp_path / "file").write_text("")
    world, api = CostWorld(apis=APIS, rules=RULES, exports=EXPORTS), Api()
    with pytest.raises(ConfigError, match="cannot be kept here"):
        look(world, tmp_path / "file" / "cost", api).standby  # noqa: B018
    assert api.asked == 0


def test_an_answer_that_could_not_be_kept_is_shown_and_asked_for_again(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    world, api = CostWorld(apis=APIS, rules=RULES, exports=EXPORTS), Api()
    monkeypatch.setattr("holdfast.engine.cost.asking._keep", full)
    for asked in (1, 2):
        found = look(world, tmp_path, api)
        assert is_answered(found)
        assert any("No space left" in note and "asks again" in note for note in found.notes)
        assert api.asked == asked


def test_an_export_that_is_there_is_not_asked_for_and_a_refusal_leaves_it_unknown(tmp_path):
    world, api = CostWorld(apis=APIS, rules=RULES, exports=EXPORTS), Api(BillingRefused("no", where="ce"))
    found = look(world, tmp_path, api).standby
    assert found.state is BillState.UNREADABLE
    from cost_world import aws_lines

    world.deliver_aws(aws_lines())
    assert is_answered(look(world, tmp_path, api))
    assert api.asked == 1
