"""Azure Cost Management: sums per subscription and service. A request costs nothing, and only a few are let through.

Over the REST API with ``azure-core``
(`Query Usage <https://learn.microsoft.com/rest/api/cost-management/query/usage>`_): two calls need no SDK, and the
SDK does not follow pages (Azure/azure-rest-api-specs#22528).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Connection
from holdfast.engine.cost.asking import AskedLine, Budget
from holdfast.engine.cost.errors import BillingRefused, BillingUnavailable
from holdfast.engine.cost.periods import Period
from holdfast.errors import ConfigError

_API_VERSION = "2024-08-01"
_HOST = "https://management.azure.com"
_SCOPE = re.compile(r"^/(subscriptions|providers/Microsoft\.(Billing|Management))/[A-Za-z0-9._:/()-]{1,400}$")
_LIMITS: Mapping[str, Any] = {"connection_timeout": 3, "read_timeout": 30}
_TRIES = 3
_FIRST_PAUSE_SECONDS = 2.0
#: It asks for a minute or more; a run that must wait longer ends, and the next one goes on.
_LONGEST_PAUSE_SECONDS = 60.0
_WAITS = (
    "x-ms-ratelimit-microsoft.costmanagement-qpu-retry-after",
    "x-ms-ratelimit-microsoft.costmanagement-entity-retry-after",
    "x-ms-ratelimit-microsoft.costmanagement-tenant-retry-after",
    "Retry-After",
)
_NOTHING: Mapping[str, Any] = {
    "columns": [{"name": name} for name in ("SubscriptionId", "ServiceName", "Currency", "Cost")],
    "rows": [],
}
_MOST_BYTES = 64 * 1024 * 1024


class CostManagement:
    """The sums of one scope.

    Args:
        scope: ``/subscriptions/<id>``, a billing account or a management group.
        connection: Airflow's Azure connection: login, password and ``extra.tenantId``, else the machine's identity.
        clock: waits between tries.
        client: an ``azure.core.PipelineClient`` to use instead of one made from the connection.
        host: where the interface is.

    Raises:
        ConfigError: this is no scope.
    """

    def __init__(
        self,
        scope: str,
        connection: Connection,
        *,
        clock: Clock | None = None,
        client: Any = None,
        host: str = _HOST,
    ) -> None:
        if not _SCOPE.match(scope) or ".." in scope:
            raise ConfigError(
                "this is no scope of Cost Management",
                where="cost.apis.….scope",
                expected="/subscriptions/<id> or /providers/Microsoft.Billing/billingAccounts/<id>",
                found=repr(scope),
            )
        self._scope, self._connection = scope.rstrip("/"), connection
        self._clock, self._given, self._host = clock or SystemClock(), client, host

    def ask(self, period: Period, budget: Budget) -> tuple[AskedLine, ...]:
        """See `BillingApi.ask`."""
        effective = self._sums("AmortizedCost", period, budget)
        billed = self._sums("ActualCost", period, budget)
        return tuple(
            AskedLine(*key, effective.get(key, Decimal(0)), billed.get(key, Decimal(0)))
            for key in sorted({*effective, *billed})
        )

    def _sums(self, kind: str, period: Period, budget: Budget) -> dict[tuple[str, str, str], Decimal]:
        body = {
            "type": kind,
            "timeframe": "Custom",
            "timePeriod": {
                "from": f"{period.start:%Y-%m-%dT00:00:00Z}",
                # Both ends are inclusive, and days.
                "to": f"{period.end - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}",
            },
            "dataset": {
                "granularity": "None",
                "aggregation": {"totalCost": {"name": "Cost", "function": "Sum"}},
                "grouping": [
                    {"type": "Dimension", "name": "SubscriptionId"},
                    {"type": "Dimension", "name": "ServiceName"},
                ],
            },
        }
        url = f"{self._host}{self._scope}/providers/Microsoft.CostManagement/query?api-version={_API_VERSION}"
        found: dict[tuple[str, str, str], Decimal] = {}
        seen = {url}
        while True:
            properties = self._page(url, body, budget)
            for key, amount in self._rows(properties):
                found[key] = found.get(key, Decimal(0)) + amount
            link = properties.get("nextLink")
            if not link:
                return found
            # The token of this connection goes to nobody else, whatever an answer says.
            if urlsplit(str(link))[:2] != urlsplit(self._host)[:2] or link in seen:
                raise self._odd("the next page at the same host", str(link)[:200])
            seen.add(link)
            url = str(link)

    def _rows(self, properties: Mapping[str, Any]) -> list[tuple[tuple[str, str, str], Decimal]]:
        try:
            names = [str(one["name"]) for one in properties["columns"]]
            at = {name: names.index(name) for name in ("SubscriptionId", "ServiceName", "Currency")}
            cost = next(names.index(name) for name in ("totalCost", "Cost", "PreTaxCost") if name in names)
            return [
                (
                    (f"/subscriptions/{row[at['SubscriptionId']]}", str(row[at["ServiceName"]]), row[at["Currency"]]),
                    Decimal(row[cost]),
                )
                for row in properties["rows"]
            ]
        except (KeyError, IndexError, ValueError, TypeError, InvalidOperation, StopIteration) as error:
            raise self._odd("columns and rows", f"{type(error).__name__}: {error}") from None

    def _page(self, url: str, body: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        for attempt in range(1, _TRIES + 1):
            budget.take(Decimal(0), self._where)
            found, wait = self._once(url, body)
            if found is not None:
                return found
            pause = wait if wait is not None else _FIRST_PAUSE_SECONDS * 2 ** (attempt - 1)
            if attempt == _TRIES or pause > _LONGEST_PAUSE_SECONDS:
                break
            self._clock.sleep(pause)
        raise BillingUnavailable(
            "Cost Management is failing or throttling", where=self._where, expected="an answer", found="none in time"
        )

    def _once(self, url: str, body: Mapping[str, Any]) -> tuple[dict[str, Any] | None, float | None]:
        """The properties of an answer; or ``None``, and how long to wait where it says so."""
        client = self._client()
        from azure.core.exceptions import AzureError, ClientAuthenticationError
        from azure.core.rest import HttpRequest

        try:
            answer = client.send_request(HttpRequest("POST", url, json=body), **_LIMITS)
        except ClientAuthenticationError as error:
            raise self._refused(str(error).splitlines()[0][:300]) from None
        except (AzureError, OSError):
            return None, None
        if answer.status_code in (408, 429) or answer.status_code >= 500:
            return None, _wait(answer.headers)
        if answer.status_code not in (200, 204):
            raise self._refused(f"HTTP {answer.status_code}")
        if answer.status_code == 204:
            return dict(_NOTHING), None
        try:
            data = answer.content
            if len(data) > _MOST_BYTES:
                raise ValueError(f"{len(data)} bytes")
            # A JSON number is a decimal here, never a float.
            properties = json.loads(data, parse_float=Decimal, parse_int=Decimal)["properties"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._odd("a JSON document with properties", str(error)[:200]) from None
        if not isinstance(properties, dict):
            raise self._odd("a JSON document with properties", type(properties).__name__)
        return properties, None

    def _refused(self, found: str) -> BillingRefused:
        return BillingRefused(
            "Cost Management refuses: what it would have said is unknown",
            where=self._where,
            expected="the role Cost Management Reader on the scope",
            found=found,
        )

    @property
    def _where(self) -> str:
        return f"Cost Management of {self._scope}"

    def _odd(self, expected: str, found: str) -> BillingUnavailable:
        return BillingUnavailable(
            "the answer is not one of Cost Management", where=self._where, expected=expected, found=found
        )

    def _client(self) -> Any:
        if self._given is None:
            try:
                from azure.core import PipelineClient
                from azure.core.pipeline.policies import BearerTokenCredentialPolicy
            except ImportError as error:
                raise BillingRefused(
                    "Azure's client is not installed here",
                    where=self._where,
                    expected="azure-identity",
                    found=str(error),
                ) from None
            policies: list[Any] = [BearerTokenCredentialPolicy(self._credential(), f"{_HOST}/.default")]
            self._given = PipelineClient(self._host, policies=policies)
        return self._given

    def _credential(self) -> Any:
        from azure.identity import ClientSecretCredential, DefaultAzureCredential

        extra = self._connection.extra
        tenant = extra.get("tenantId") or extra.get(f"extra__{self._connection.conn_type}__tenantId")
        if self._connection.login and self._connection.password and tenant:
            return ClientSecretCredential(str(tenant), self._connection.login, self._connection.password)
        return DefaultAzureCredential()


def _wait(headers: Mapping[str, str]) -> float | None:
    for name in _WAITS:
        try:
            return max(0.0, float(headers[name]))
        except (KeyError, ValueError):
            continue
    return None
