"""What counts in the log: what the newest anchor names, and all since."""

from __future__ import annotations

from datetime import timedelta

from holdfast.engine.vault.forget import Keep, forget
from holdfast.engine.vault.keysets import rotate_keys
from holdfast.engine.vault.mirror import mirror_vault
from vault_faults import RECIPIENT, Sites, some_files


def test_the_keys_an_anchor_names_count_also_after_others_came() -> None:
    """Whoever reads from the anchor on begins with them."""
    sites = Sites().make()
    sites.back_up(some_files(count=2))
    sites.back_up(some_files(1, count=2))
    rotate_keys(sites.open("admin"), {"admin": [RECIPIENT]})
    vault, _ = forget(sites.open("admin"), Keep(last=1))
    old = vault.history.keys_at.sequence
    rotate_keys(sites.open("admin"), {"admin": [RECIPIENT]})
    history = sites.open().history
    assert old < history.anchor_at < history.keys_at.sequence
    assert old in history.counting
    mirror_vault(sites.vault, sites.mirror)
    sites.check_live(store=sites.mirror)
    sites.clock.advance(timedelta(days=3).total_seconds())
    sites.settle()
