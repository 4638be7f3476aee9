"""Epochs: who is active, in a ranked register over three object stores; the lease and the fence."""

from holdfast.engine.authority.interface import (
    AcceptorView,
    AuthorityError,
    Contended,
    EpochConflict,
    EpochState,
    EpochStore,
    GroupNotInitialised,
    NoMajority,
    Operation,
    OperationInProgress,
    OperationKind,
)
from holdfast.engine.authority.lease import Lease, LeaseStatus, Role, fence_wait_seconds
from holdfast.engine.authority.memory import MemoryEpochStore
from holdfast.engine.authority.register import RankedRegister

__all__ = [
    "AcceptorView",
    "AuthorityError",
    "Contended",
    "EpochConflict",
    "EpochState",
    "EpochStore",
    "GroupNotInitialised",
    "Lease",
    "LeaseStatus",
    "MemoryEpochStore",
    "NoMajority",
    "Operation",
    "OperationInProgress",
    "OperationKind",
    "RankedRegister",
    "Role",
    "fence_wait_seconds",
]
