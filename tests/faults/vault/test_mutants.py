"""The suite finds what it is there to find: an engine with one safeguard taken out fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis.errors import HypothesisException

from holdfast.engine.vault import append as appending
from holdfast.engine.vault import collect, forget, history, session, vault
from vault_machine import run_machine

pytestmark = [pytest.mark.usefixtures("same_each_time")]

Patch = Callable[[Any, str, Any], None]


def reuse_what_was_collected(patch: Patch) -> None:
    """A backup does not look at what was collected while it ran."""
    patch(session.Session, "check_collected", lambda _self, _entry: None)


def find_what_was_collected(patch: Patch) -> None:
    """Collected packs count as there."""
    real = vault.ChunkIndex
    patch(vault, "ChunkIndex", lambda parts, without: real(parts, without=frozenset() if without else without))


def append_blindly(patch: Patch) -> None:
    """Whoever appends does not read what came since."""

    def no_news(_store: Any, _secrets: Any, tip: Any, _seen: Any, signers: Any) -> Any:
        return tip, signers, 1 if tip is None else tip.sequence + 1

    patch(appending, "_catch_up", no_news)
    patch(appending, "_check_it_counts", lambda *_: None)


def sign_with_any_key(patch: Patch) -> None:
    patch(appending, "check_current", lambda *_: None)
    patch(vault, "check_current", lambda *_: None)


def lose_what_is_moved(patch: Patch) -> None:
    """Packs of which little is needed are dropped, and the rest of them not written anew."""
    patch(collect._Run, "_repack", lambda _self, _index, _sparse: {})


def take_half_for_nothing(patch: Patch) -> None:
    """The last chunk of a pack is not thought needed."""
    real = collect._Run._live_bytes

    def fewer(self: Any, index: Any) -> Any:
        live = real(self, index)
        return dict(list(live.items())[:-1]) if len(live) > 3 else live

    patch(collect._Run, "_live_bytes", fewer)


def forget_holds(patch: Patch) -> None:
    real = forget.all_backups
    patch(
        forget,
        "all_backups",
        lambda *given, **named: [replace(backup, held=False) for backup in real(*given, **named)],
    )


def believe_the_head(patch: Patch) -> None:
    """What the head names is taken for the newest entry."""
    real = history.sequences

    def only(store: Any, *, after: int = 0) -> list[int]:
        return real(store, after=after)[:1] if after else real(store)

    patch(history, "sequences", only)


def leave_leftovers(patch: Patch) -> None:
    """What broken-off collections asked the store for its time with stays for ever."""
    patch(collect._Run, "_remove_leftovers", lambda _self, _running, _now: None)


MUTANTS = [
    reuse_what_was_collected,
    find_what_was_collected,
    append_blindly,
    sign_with_any_key,
    lose_what_is_moved,
    take_half_for_nothing,
    forget_holds,
    believe_the_head,
    leave_leftovers,
]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("mutate", MUTANTS)
def test_the_machine_finds_a_safeguard_that_is_gone(
    mutate: Callable[[Patch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    mutate(monkeypatch.setattr)
    with pytest.raises(Exception) as found:
        run_machine(examples=240, steps=50, shrink=False)
    assert not isinstance(found.value, HypothesisException | TypeError | AttributeError), "the mutant itself is broken"
