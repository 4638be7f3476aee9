"""Where a group's work is done now."""

from __future__ import annotations

from holdfast.engine.authority.interface import EpochState, GroupNotInitialised
from holdfast.engine.runtime import Runtime


def require_active(runtime: Runtime, group: str) -> EpochState:
    """The group's committed state: its active site and epoch.

    Raises:
        UnknownName: there is no such group.
        GroupNotInitialised: the register is empty.
        NoMajority: nobody knows which site is active.
    """
    runtime.topology.group(group)
    state = runtime.authority(group).read(group)
    if state is None:
        raise GroupNotInitialised(
            "the group has no active site yet",
            where=f"group {group}",
            expected="an initialised register",
            found="none",
            fix=f"Run `holdfast authority init {group}`",
        )
    return state
