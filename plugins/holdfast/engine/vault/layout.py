"""Where everything lies in a vault, relative to the store it is opened on. Formats: docs/formats/vault.md."""

from __future__ import annotations

import re

from holdfast.errors import ConfigError

HEAD = "head.json"
LOG = "log/"
LOG_COPIES = "log-copies/"
INDEXES = "indexes/"
PACKS = "packs/"
KEYS = "keys/"
WITNESS = "vault-witness/"
#: Marks of backups that run for long, and objects that asked the store for its time: of no use afterwards.
RUNNING = "running/"
CLOCK = "clock/"
#: Retention tiers from the shortest to the longest; the grandfather-father-son scheme.
TIERS = ("hourly", "daily", "weekly", "monthly", "yearly")
KEY_COPIES = ("a", "b")

_ENTRY = re.compile(r"(?P<number>[0-9]{12})\.json")
_KEY_ENTRY = re.compile(r"keys/(?P<number>[0-9]{12})-(?P<digest>[0-9a-f]{64})\.json")
_PACK = re.compile(rf"packs/(?P<tier>{'|'.join(TIERS)})/(?P<first>[0-9a-f]{{2}})/(?P<id>(?P=first)[0-9a-f]{{30}})")
_INDEX = re.compile(r"indexes/(?P<id>[0-9a-f]{32})")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def entry_key(sequence: int) -> str:
    return f"{LOG}{sequence:012d}.json"


def entry_copy_key(sequence: int) -> str:
    return f"{LOG_COPIES}{sequence:012d}.json"


def sequence_of(name: str) -> int | None:
    """The number of an entry by the last part of its key, ``None`` for something else."""
    match = _ENTRY.fullmatch(name.rpartition("/")[2])
    return int(match["number"]) or None if match else None


def witnessed_keys(repository: bytes, key: str) -> tuple[int, str] | None:
    """Number and digest of an entry that set the keys, by a witness's key for it; ``None`` for something else."""
    match = _KEY_ENTRY.fullmatch(key.removeprefix(witness_prefix(repository)))
    return (int(match["number"]), f"sha256:{match['digest']}") if match else None


def pack_key(tier: str, pack_id: bytes) -> str:
    name = pack_id.hex()
    return f"{PACKS}{check_tier(tier)}/{name[:2]}/{name}"


def parse_pack_key(key: str) -> tuple[str, bytes] | None:
    """Tier and id, ``None`` when the key is of something else."""
    match = _PACK.fullmatch(key)
    return (match["tier"], bytes.fromhex(match["id"])) if match else None


def index_key(index_id: bytes) -> str:
    return f"{INDEXES}{index_id.hex()}"


def parse_index_key(key: str) -> bytes | None:
    """Id, ``None`` when the key is of something else."""
    match = _INDEX.fullmatch(key)
    return bytes.fromhex(match["id"]) if match else None


def id_of(key: str) -> bytes | None:
    """Of a pack or an index; ``None`` for anything else."""
    pack = parse_pack_key(key)
    return parse_index_key(key) if pack is None else pack[1]


def keyset_key(keyset_id: str, copy: str) -> str:
    return f"{KEYS}{keyset_id}.{copy}.json"


def witness_prefix(repository: bytes) -> str:
    return f"{WITNESS}{repository.hex()}/"


def witness_key(repository: bytes, sequence: int) -> str:
    return f"{witness_prefix(repository)}{sequence:012d}.json"


def witness_keys_key(repository: bytes, sequence: int, digest: str) -> str:
    """Where a witness keeps an entry that set the keys, whole. The digest is in it, so nobody can take its place."""
    return f"{witness_prefix(repository)}keys/{sequence:012d}-{digest.removeprefix('sha256:')}.json"


def check_tier(tier: str) -> str:
    """Raises ConfigError."""
    if tier not in TIERS:
        raise ConfigError("unknown retention tier", expected=f"one of {', '.join(TIERS)}", found=repr(tier))
    return tier


def check_name(name: str) -> str:
    """A vault's or a source's name if it can stand in a key. Raises ConfigError."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "the name cannot stand in a key", expected="lower-case letters, digits and `-`", found=repr(name)
        )
    return name
