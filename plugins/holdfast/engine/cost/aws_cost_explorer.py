"""AWS Cost Explorer: sums per account and service. Each request, and so each page, costs 0.01 US dollars.

(`GetCostAndUsage <https://docs.aws.amazon.com/aws-cost-management/latest/APIReference/API_GetCostAndUsage.html>`_)
The SDK's own repetitions are switched off: one that is not counted would not be in the budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from holdfast.clock import Clock, SystemClock
from holdfast.engine.config import Connection
from holdfast.engine.cost.asking import AskedLine, Budget
from holdfast.engine.cost.errors import BillingRefused, BillingUnavailable
from holdfast.engine.cost.periods import Period

PRICE_PER_REQUEST = Decimal("0.01")
_EFFECTIVE, _BILLED = "AmortizedCost", "UnblendedCost"
_TRIES = 3
_FIRST_PAUSE_SECONDS = 1.0
_CONNECT_SECONDS, _READ_SECONDS = 3.0, 30.0
_AGAIN = ("ThrottlingException", "Throttling", "LimitExceededException", "TooManyRequestsException", "RequestTimeout")


class CostExplorer:
    """The sums of one payer or account.

    Args:
        account: for messages; the credentials say whose sums these are.
        connection: Airflow's AWS connection.
        clock: waits between tries.
        client: boto3's ``ce`` client to use instead of one made from the connection.
    """

    def __init__(self, account: str, connection: Connection, *, clock: Clock | None = None, client: Any = None) -> None:
        self._account, self._connection = account, connection
        self._clock = clock or SystemClock()
        self._given = client

    def ask(self, period: Period, budget: Budget) -> tuple[AskedLine, ...]:
        """See `BillingApi.ask`."""
        request: dict[str, Any] = {
            "TimePeriod": {"Start": f"{period.start:%Y-%m-%d}", "End": f"{period.end:%Y-%m-%d}"},
            "Granularity": "MONTHLY",
            "Metrics": [_EFFECTIVE, _BILLED],
            "GroupBy": [{"Type": "DIMENSION", "Key": "LINKED_ACCOUNT"}, {"Type": "DIMENSION", "Key": "SERVICE"}],
        }
        found: list[AskedLine] = []
        seen: set[str] = set()
        while True:
            answer = self._page(request, budget)
            for month in answer.get("ResultsByTime", ()):
                found += [self._line(group) for group in month.get("Groups", ())]
            token = answer.get("NextPageToken")
            if not token:
                return tuple(found)
            if token in seen:
                raise self._odd("another page", "the same page again")
            seen.add(token)
            request = {**request, "NextPageToken": token}

    def _line(self, group: Mapping[str, Any]) -> AskedLine:
        try:
            account, service = group["Keys"]
            amounts = {name: group["Metrics"][name] for name in (_EFFECTIVE, _BILLED)}
            effective, billed = (Decimal(amounts[name]["Amount"]) for name in (_EFFECTIVE, _BILLED))
            return AskedLine(account, service, amounts[_EFFECTIVE]["Unit"], effective, billed)
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            raise self._odd("a group with two keys and its metrics", str(error)) from None

    def _page(self, request: Mapping[str, Any], budget: Budget) -> dict[str, Any]:
        for attempt in range(1, _TRIES + 1):
            budget.take(PRICE_PER_REQUEST, self._where)
            try:
                return self._once(request)
            except BillingUnavailable:
                if attempt == _TRIES:
                    raise
                self._clock.sleep(_FIRST_PAUSE_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("unreachable")

    def _once(self, request: Mapping[str, Any]) -> dict[str, Any]:
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            answer: dict[str, Any] = client.get_cost_and_usage(**request)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _AGAIN or status == 429 or status >= 500:
                raise BillingUnavailable(
                    "Cost Explorer is failing or throttling", where=self._where, found=code
                ) from None
            raise BillingRefused(
                "Cost Explorer refuses: what it would have said is unknown",
                where=self._where,
                expected="the right ce:GetCostAndUsage, and Cost Explorer enabled in the payer account",
                found=code,
            ) from None
        except NoCredentialsError as error:
            raise BillingRefused(
                "there are no credentials for Cost Explorer", where=self._where, found=str(error)
            ) from None
        except (BotoCoreError, OSError) as error:
            raise BillingUnavailable("Cost Explorer does not answer", where=self._where, found=str(error)) from None
        return answer

    @property
    def _where(self) -> str:
        return f"Cost Explorer of {self._account}"

    def _odd(self, expected: str, found: str) -> BillingUnavailable:
        return BillingUnavailable(
            "the answer is not one of Cost Explorer", where=self._where, expected=expected, found=found
        )

    def _client(self) -> Any:
        if self._given is None:
            try:
                import boto3
                from botocore.config import Config
            except ImportError as error:
                raise BillingRefused(
                    "AWS's client is not installed here", where=self._where, expected="boto3", found=str(error)
                ) from None
            extra = self._connection.extra
            service = extra.get("service_config", {}).get("ce", {})
            self._given = boto3.client(
                "ce",
                aws_access_key_id=self._connection.login or None,
                aws_secret_access_key=self._connection.password or None,
                aws_session_token=extra.get("aws_session_token"),
                # One service for the world, with its endpoint there.
                region_name="us-east-1",
                endpoint_url=service.get("endpoint_url") or extra.get("endpoint_url"),
                config=Config(
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    retries={"mode": "standard", "total_max_attempts": 1},
                ),
            )
        return self._given
