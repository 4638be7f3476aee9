"""The public side of a repository's keys, and how they came about: who may sign what, content is sealed to whom.

The id of a repository is a digest of the administrator's key that began it. Each change of the keys is an entry signed
by an administrator of the keys before it, and every anchor names all of them. So whoever has the id, and all secrets
have it, tells the real keys from any others, whatever lies in the store.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from holdfast.engine.vault.errors import HistoryDamaged
from holdfast.engine.vault.log import LogEntry, may_write
from holdfast.engine.vault.secrets import b64, repository_of, unb64


@dataclass(frozen=True)
class Keys:
    """The public side of the repository's keys.

    Args:
        recipients: by generation, the X25519 public keys content is sealed to; writers use the newest.
        signers: by Ed25519 public key, the role it signs for.
        keysets: by role, the ids of its key objects.
    """

    recipients: Mapping[int, bytes]
    signers: Mapping[bytes, str]
    keysets: Mapping[str, str]

    def to_public(self) -> dict[str, Any]:
        return {
            "recipients": {str(number): b64(key) for number, key in sorted(self.recipients.items())},
            "signers": [[b64(key), role] for key, role in sorted(self.signers.items())],
            "keysets": dict(self.keysets),
        }

    @classmethod
    def from_public(cls, found: Mapping[str, Any]) -> Keys:
        return cls(
            recipients={int(number): unb64(key) for number, key in found["recipients"].items()},
            signers={unb64(key): role for key, role in found["signers"]},
            keysets=dict(found["keysets"]),
        )

    @property
    def generation(self) -> int:
        """The one new packs are sealed to."""
        return max(self.recipients)

    def entitle(self, entry: LogEntry) -> bool:
        """Whether an entry's signer may write one of its kind."""
        return may_write(self.signers, entry)


def first_keys(entry: LogEntry) -> Keys:
    """The keys a repository began with. Raises HistoryDamaged: this entry did not begin it."""
    if entry.kind == "init" and repository_of(entry.signer) == entry.repository:
        keys = Keys.from_public(entry.public["keys"])
        if keys.entitle(entry):
            return keys
    raise HistoryDamaged(
        "the repository was begun by another key than its id says",
        where=f"entry {entry.sequence}",
        expected=f"an administrator's key of which {entry.repository.hex()} is the digest",
        found=b64(entry.signer),
        fix="Somebody replaced the beginning of the log; restore it from a mirror",
    )


def next_keys(keys: Keys, entry: LogEntry) -> Keys:
    """The keys after a change of them. Raises HistoryDamaged: nobody who might do so made it."""
    if entry.kind != "keys" or not keys.entitle(entry):
        raise HistoryDamaged(
            "the keys were changed by somebody who may not",
            where=f"entry {entry.sequence}",
            expected="an administrator",
            found=f"{keys.signers.get(entry.signer) or 'an unknown key'}, kind `{entry.kind}`",
            fix="Restore the log from a mirror",
        )
    return Keys.from_public(entry.public["keys"])


def keys_after(entries: Iterable[LogEntry]) -> Keys:
    """The keys after all of these changes, the first of which began the repository. Raises HistoryDamaged."""
    first, *others = entries
    keys = first_keys(first)
    for entry in others:
        keys = next_keys(keys, entry)
    return keys
