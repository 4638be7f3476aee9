"""Google Cloud's FOCUS export where it lies: in BigQuery, whose queries cost by the bytes they read.

A dry run says how many bytes that would be, for nothing; a query beyond the budget is not made, and one that is made
carries ``maximum_bytes_billed``, so that BigQuery itself refuses to read more.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from holdfast.engine.config import Connection
from holdfast.engine.cost.asking import AskedLine, Budget
from holdfast.engine.cost.errors import BillingRefused, BillingUnavailable
from holdfast.engine.cost.periods import Period
from holdfast.engine.objectstore.gcp_login import gcp_credentials, gcp_fields
from holdfast.errors import ConfigError

_TABLE = re.compile(
    r"^(?P<project>[a-z][a-z0-9.:-]{4,80})\.(?P<dataset>[A-Za-z0-9_]{1,200})\.(?P<table>[A-Za-z0-9_-]{1,200})$"
)
_TIB = Decimal(1024**4)
#: BigQuery bills 10 MiB per table at least.
_LEAST_BYTES = 10 * 1024 * 1024
_REQUEST_SECONDS, _BUDGET_SECONDS, _JOB_SECONDS = 30.0, 60.0, 120.0
_SCOPES = ("https://www.googleapis.com/auth/bigquery.readonly", "https://www.googleapis.com/auth/cloud-platform")
_MOST_ROWS = 100_000
_QUERY = """
SELECT SubAccountId AS sub_account, ServiceName AS service, BillingCurrency AS currency,
  CAST(SUM(CAST(EffectiveCost AS BIGNUMERIC)) AS STRING) AS effective,
  CAST(SUM(CAST(BilledCost AS BIGNUMERIC)) AS STRING) AS billed
FROM `{table}`
WHERE BillingPeriodStart >= @begin AND BillingPeriodStart < @end
GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
"""


class BigQueryBilling:
    """The sums of one billing account's export.

    Args:
        table: ``project.dataset.table``.
        connection: Airflow's Google connection: ``extra.keyfile_dict`` or ``key_path``, else default credentials.
        price_per_tib: of what a query reads, in US dollars.
        client: a ``bigquery.Client`` to use instead of one made from the connection.

    Raises:
        ConfigError: this is no table.
    """

    def __init__(self, table: str, connection: Connection, *, price_per_tib: Decimal, client: Any = None) -> None:
        found = _TABLE.match(table)
        if found is None:
            raise ConfigError(
                "this is no table of BigQuery",
                where="cost.apis.….scope",
                expected="project.dataset.table",
                found=repr(table),
            )
        self._table, self._project = table, found["project"]
        self._connection, self._price, self._given = connection, price_per_tib, client

    def ask(self, period: Period, budget: Budget) -> tuple[AskedLine, ...]:
        """See `BillingApi.ask`."""
        budget.take(Decimal(0), self._where)
        size = self._run(period, dry_run=True, most_bytes=None).total_bytes_processed
        if size is None:
            raise BillingUnavailable("a dry run says no size", where=self._where, expected="bytes", found="nothing")
        billed = max(int(size), _LEAST_BYTES)
        budget.take(Decimal(billed) / _TIB * self._price, self._where)
        rows = self._rows(self._run(period, dry_run=False, most_bytes=billed))
        if len(rows) > _MOST_ROWS:
            raise BillingUnavailable(
                "the answer is too large", where=self._where, expected=f"{_MOST_ROWS} rows", found=str(len(rows))
            )
        return tuple(
            AskedLine(
                row["sub_account"],
                row["service"] or "",
                row["currency"],
                Decimal(row["effective"]),
                Decimal(row["billed"]),
            )
            for row in rows
        )

    def _run(self, period: Period, *, dry_run: bool, most_bytes: int | None) -> Any:
        from google.cloud import bigquery

        config = bigquery.QueryJobConfig(
            dry_run=dry_run,
            use_query_cache=not dry_run,
            use_legacy_sql=False,
            job_timeout_ms=int(_JOB_SECONDS * 1000),
            query_parameters=[
                bigquery.ScalarQueryParameter("begin", "TIMESTAMP", period.start),
                bigquery.ScalarQueryParameter("end", "TIMESTAMP", period.end),
            ],
        )
        if most_bytes is not None:
            config.maximum_bytes_billed = most_bytes
        query = _QUERY.format(table=self._table)
        return self._call(
            lambda client, retry: client.query(
                query, job_config=config, retry=retry, job_retry=None, timeout=_REQUEST_SECONDS
            )
        )

    def _rows(self, job: Any) -> list[Any]:
        def read(_client: Any, retry: Any) -> list[Any]:
            return list(job.result(retry=retry, job_retry=None, timeout=_JOB_SECONDS, max_results=_MOST_ROWS + 1))

        rows: list[Any] = self._call(read)
        return rows

    def _call(self, ask: Any) -> Any:
        client = self._client()
        from concurrent.futures import TimeoutError as Late

        from google.api_core import exceptions
        from google.api_core.retry import Retry, if_exception_type
        from google.auth.exceptions import GoogleAuthError
        from requests.exceptions import RequestException

        again = if_exception_type(
            exceptions.ServiceUnavailable, exceptions.InternalServerError, exceptions.TooManyRequests
        )
        retry = Retry(predicate=again, initial=0.5, maximum=8.0, timeout=_BUDGET_SECONDS)
        try:
            return ask(client, retry)
        except exceptions.TooManyRequests as error:
            raise self._unavailable(error) from None
        except (exceptions.ClientError, GoogleAuthError) as error:
            raise BillingRefused(
                "BigQuery refuses: what it would have said is unknown",
                where=self._where,
                expected="the roles BigQuery Job User, and BigQuery Data Viewer on the export's dataset",
                found=str(error)[:300],
            ) from None
        except (exceptions.GoogleAPICallError, exceptions.RetryError, RequestException, OSError, Late) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: Exception) -> BillingUnavailable:
        return BillingUnavailable("BigQuery does not answer", where=self._where, found=str(error)[:300])

    @property
    def _where(self) -> str:
        return f"BigQuery {self._table}"

    def _client(self) -> Any:
        if self._given is None:
            try:
                from google.cloud import bigquery
            except ImportError as error:
                raise BillingRefused(
                    "Google's client is not installed here",
                    where=self._where,
                    expected="google-cloud-bigquery",
                    found=str(error),
                ) from None
            project = gcp_fields(self._connection).get("project") or self._project
            self._given = bigquery.Client(project=str(project), credentials=self._credentials())
        return self._given

    def _credentials(self) -> Any:
        try:
            return gcp_credentials(self._connection, _SCOPES)
        except ConfigError as error:
            raise BillingRefused(
                "there are no credentials for BigQuery", where=self._where, expected=error.expected, found=error.found
            ) from None
