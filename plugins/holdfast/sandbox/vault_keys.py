"""Keys for the sandbox's vaults: one secret per role, and an age identity that plays the offline one."""

from __future__ import annotations

import secrets
from pathlib import Path

from holdfast.sandbox.files import write_text

ROLES = ("writer", "reader", "admin")
OFFLINE = "offline.txt"


def write_vault_keys(state: Path) -> None:
    """Make ``vault-keys/`` in the sandbox's state; what is there stays."""
    folder = state / "vault-keys"
    for role in ROLES:
        file = folder / f"{role}.key"
        if not file.exists():
            write_text(file, secrets.token_hex(32) + "\n", durable=True)
    offline = folder / OFFLINE
    if not offline.exists():
        from holdfast.engine.vault.recipients import AgeRecipient

        made = AgeRecipient.make()
        write_text(offline, f"# public key: {made.key_name}\n{made.identity}\n", durable=True)
