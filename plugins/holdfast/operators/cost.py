"""What standing by and drills cost, in Airflow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from holdfast.operators.base import HoldfastOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from holdfast.engine.runtime import Runtime


class ReportCostsOperator(HoldfastOperator):
    """Reports the cost of one billing period from the clouds' own bills, and writes standby and drills as FOCUS 1.2.

    Both go into ``costs/<period>/`` of the evidence folder: ``report.json``, ``focus.parquet``, ``focus.csv``. A bill
    that is missing or damaged is in the report as unknown; the task then fails, after the report is written, unless
    ``require_known`` is off. The report is kept at every site as well, where ``export_audit`` finds it; when none takes
    it the task fails.

    :param period: ``last``, ``this``, or a month as ``2026-10``. (templated)
    :param require_known: fail when an export has no bill of the period.
    :param ask: ask the billing interfaces of ``cost.apis`` where an export has nothing; it may cost money.
    :returns: ``period``, ``state``, ``is_known``, ``standby`` and ``unmapped`` per currency, ``exports``, ``drills``,
        ``folder``, ``sites`` that keep it.
    """

    template_fields: Sequence[str] = ("period",)

    def __init__(self, *, period: str = "last", require_known: bool = True, ask: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.period = period
        self.require_known = require_known
        self.ask = ask

    def act(self, context: Context, runtime: Runtime) -> dict[str, Any]:
        from holdfast.engine.cost.filing import file_report
        from holdfast.engine.cost.record import KEPT

        filed = file_report(runtime, self.period, self.hook.evidence_folder() / "costs", ask=self.ask)
        for note in filed.notes:
            self.log.warning("%s", note)
        away = {site: why for site, why in filed.kept.items() if why != KEPT}
        for site, why in away.items():
            self.log.warning("%s does not keep the report: %s", site, why)
        summary = {
            **filed.summary,
            "folder": str(filed.folder),
            "sites": [one for one in filed.kept if one not in away],
        }
        for outlet in self.outlets:
            context["outlet_events"][outlet].extra = {name: summary[name] for name in ("period", "state", "standby")}
        if not summary["sites"]:
            raise AirflowFailException(f"no site keeps the report of {filed.summary['period']}: {away}")
        if self.require_known and not filed.summary["is_known"]:
            raise AirflowFailException(f"what {filed.summary['period']} cost is not known: {'; '.join(filed.unknown)}")
        return summary
