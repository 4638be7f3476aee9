"""The process dies at every single write of every operation: nobody unlocks anything, and nothing committed is lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import timedelta

import pytest

from holdfast.engine.vault.backups import live_backups
from holdfast.engine.vault.collect import collect
from holdfast.engine.vault.errors import NoVault
from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.history import load_history
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault, trim_mirror
from holdfast.engine.vault.recipients import SecretRecipient
from sync_harms import Killed, Trace
from vault_faults import AT_ONCE, KillAtWrite, Sites, some_files, writes_of

NEW_RECIPIENT = SecretRecipient("new", bytes(reversed(range(32))))


CHANGED = {**some_files(), "part-0/00": b"changed", "new": b"new" * 300}


def base() -> Sites:
    """A vault with a past: backups of two sources, one forgotten, a collection, a mirror of an older state."""
    sites = Sites().make()
    sites.back_up(some_files())
    sites.back_up(some_files(seed=5, count=3), source="other")
    mirror_vault(sites.vault, sites.mirror)
    sites.clock.advance(3600)
    files = {path: data for path, data in some_files(seed=1).items() if path != "large"}
    sites.back_up({**some_files(), **dict(list(files.items())[:6])})
    sites.back_up({**some_files(), "part-1/01": b"x" * 900})
    forget(sites.open("admin"), Keep(last=2), source="files")
    sites.collect()
    sites.clock.advance(3600)
    return sites


def do_backup(sites: Sites) -> None:
    sites.back_up(CHANGED)


def do_forget(sites: Sites) -> None:
    forget(sites.open("admin"), Keep(last=1))


def do_collect(sites: Sites) -> None:
    vault = sites.open("admin")
    collect(vault, dataclasses.replace(AT_ONCE, reader=unlock(sites.store(), "reader", sites.recipients)))


def do_rotate(sites: Sites) -> None:
    sites.recipients.append(NEW_RECIPIENT)
    store = sites.store()
    writer, reader = (unlock(store, role, sites.recipients) for role in ("writer", "reader"))
    recipients = {"writer": [NEW_RECIPIENT], "reader": [NEW_RECIPIENT]}
    rotate_keys(sites.open("admin"), recipients, writer=writer, reader=reader, new_generation=True, new_signer=True)


def do_mirror(sites: Sites) -> None:
    mirror_vault(sites.store(), sites.mirror_store())


def do_trim(sites: Sites) -> None:
    trim_mirror(sites.open(store=sites.mirror_store()), grace=timedelta(0), orphan_age=timedelta(0))


def before_collect() -> Sites:
    """Whole packs and parts of packs are nobody's, and some that were said to be so still lie there."""
    sites = base()
    files = some_files()
    sites.back_up({path: data for number, (path, data) in enumerate(sorted(files.items())) if number % 3 == 0})
    forget(sites.open("admin"), Keep(last=1))
    sites.collect(dataclasses.replace(AT_ONCE, grace=timedelta(hours=1)))
    sites.back_up({path: data for number, (path, data) in enumerate(sorted(files.items())) if number % 4 == 0})
    forget(sites.open("admin"), Keep(last=1))
    sites.clock.advance(7200)
    return sites


def before_trim() -> Sites:
    sites = before_collect()
    mirror_vault(sites.vault, sites.mirror)
    sites.collect()
    mirror_vault(sites.vault, sites.mirror)
    sites.clock.advance(7200)
    return sites


OPERATIONS: dict[str, tuple[Callable[[], Sites], Callable[[Sites], None]]] = {
    "backup": (base, do_backup),
    "forget": (base, do_forget),
    "collect": (before_collect, do_collect),
    "rotate": (base, do_rotate),
    "mirror": (before_collect, do_mirror),
    "trim": (before_trim, do_trim),
}


@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 3], ids=["each", "every third"])
@pytest.mark.parametrize("after_it", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_a_kill_at_any_write_needs_no_unlocking_and_loses_nothing(name: str, after_it: bool, stride: int) -> None:
    prepare, operate = OPERATIONS[name]
    prepared = prepare()
    dry = prepared.fork()
    dry.trace = Trace()
    operate(dry)
    total = writes_of(dry.trace)
    assert total >= 5
    was = {backup.backup_id for backup in prepared.live()}
    for nth in range(int(after_it), total, stride):
        sites = prepared.fork()
        sites.trace = Trace([KillAtWrite(nth, after_it)])
        with pytest.raises(Killed):
            operate(sites)
        sites.trace = None
        left = {backup.backup_id for backup in sites.check_live(at_least=() if name == "forget" else was)}
        assert name != "forget" or left < was or left == was
        operate(sites)
        assert as_content(sites) == as_content(dry), f"write {nth}"
        sites.settle()
        sites.check_live()
        sites.check_verifies()
        if sites.mirror.objects():
            mirror_vault(sites.vault, sites.mirror)
            sites.check_live(store=sites.mirror)


def as_content(sites: Sites) -> list[str]:
    """The different contents that are live."""
    return sorted({repr(sorted(sites.expected(backup).items())) for backup in sites.live()})


@pytest.mark.parametrize("after_it", [False, True], ids=["before", "after"])
def test_a_kill_while_a_vault_is_made_leaves_none_or_a_whole_one(after_it: bool) -> None:
    dry = Sites(trace=Trace())
    dry.make()
    assert dry.trace is not None
    for nth in range(writes_of(dry.trace)):
        sites = Sites(trace=Trace([KillAtWrite(nth, after_it)]))
        with pytest.raises(Killed):
            sites.make()
        sites.trace = None
        try:
            load_history(sites.vault)
        except NoVault:
            sites.make()
        assert live_backups(sites.open("writer")) == []
        sites.back_up(some_files())
        sites.check_live()
        sites.clock.advance(10)
        sites.settle()
        assert len(sites.vault.objects("keys/")) == 6, "key objects of the one that failed are gone"
