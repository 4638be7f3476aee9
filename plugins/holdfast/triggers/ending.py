"""Whether a person ended a deferred task, or Airflow only took its trigger from this process."""

from __future__ import annotations

import asyncio

from airflow.triggers.base import BaseTrigger

#: What a task is in when nobody waits for its work any more.
_OVER = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


async def ended_by_a_person(trigger: BaseTrigger) -> bool:
    """Whether the trigger's task is over. Ask when Airflow calls `on_kill`, which it says a person did.

    Airflow 3.3 calls it in three other cases as well: a triggerer that stood still finds that another one has its
    triggers; a task was cleared, so its next try waits for the same work; the metadata database was replaced by an
    older one, which does not know the task. The task is over in none of them.
    """
    instance = trigger.task_instance
    if instance is None:
        return False
    # It asks through the triggerer's own loop, so it may be called from a thread.
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    found = await asyncio.to_thread(
        RuntimeTaskInstance.get_task_states,
        dag_id=instance.dag_id,
        task_ids=[instance.task_id],
        run_ids=[instance.run_id],
        map_index=instance.map_index,
    )
    # One task of one run and one map index: whatever its key, there is at most one.
    return any(state in _OVER for states in found.values() for state in states.values())
