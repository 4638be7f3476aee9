"""A reader of vaults written from docs/formats/vault.md alone: it shares no code with the engine.

It is strict where the page says that something is refused, and plain where the page leaves a choice: it reads every
object whole, one after the other.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import blake3
import pyarrow as pa
import rfc8785
import zstandard
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

Bucket = Mapping[str, bytes]
ANCHORS = ("init", "forget", "collect")
SIGNERS = {"backup": ("writer", "admin")}
TIERS = ("hourly", "daily", "weekly", "monthly", "yearly")


class Refused(Exception):
    """The page says that this is refused."""


def check(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


def read_json(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    check(isinstance(found, dict) and rfc8785.dumps(found) == data, "another spelling")
    return dict(found)


def from_base64(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    check(base64.b64encode(data).decode() == text, "another spelling of base64")
    return data


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(SHA256(), length, salt, info).derive(secret)


def object_key(secret: bytes, salt: bytes, context: bytes, commitment: bytes) -> AESGCM:
    both = hkdf(secret, salt, b"holdfast vault 1|" + context, 64)
    check(hmac.compare_digest(both[32:], commitment), "another commitment")
    return AESGCM(both[:32])


def unseal(secret: bytes, kind: bytes, repository: bytes, data: bytes) -> bytes:
    header = data[:56]
    check(header[:8] == b"HFVB\x01" + kind + b"\0\0", "no sealed object of this kind")
    key = object_key(secret, header[8:24], b"sealed|" + repository + kind, header[24:56])
    return key.decrypt(bytes(12), data[56:], repository + header)


# -- HPKE, RFC 9180: base mode, DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM -------------------------------

KEM_SUITE = b"KEM" + (0x0020).to_bytes(2, "big")
SUITE = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (0x0020, 0x0001, 0x0002))


def extract(suite: bytes, salt: bytes, label: bytes, secret: bytes) -> bytes:
    return hmac.new(salt or bytes(32), b"HPKE-v1" + suite + label + secret, hashlib.sha256).digest()


def expand(suite: bytes, secret: bytes, label: bytes, info: bytes, length: int) -> bytes:
    labelled = length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info
    return HKDFExpand(SHA256(), length, labelled).derive(secret)


def open_hpke(private: bytes, sealed: bytes, info: bytes) -> bytes:
    own = X25519PrivateKey.from_private_bytes(private)
    encapsulated, ciphertext = sealed[:32], sealed[32:]
    shared = own.exchange(X25519PublicKey.from_public_bytes(encapsulated))
    context = encapsulated + own.public_key().public_bytes_raw()
    secret = expand(KEM_SUITE, extract(KEM_SUITE, b"", b"eae_prk", shared), b"shared_secret", context, 32)
    schedule = b"\0" + extract(SUITE, b"", b"psk_id_hash", b"") + extract(SUITE, b"", b"info_hash", info)
    root = extract(SUITE, secret, b"secret", b"")
    key = expand(SUITE, root, b"key", schedule, 32)
    return AESGCM(key).decrypt(expand(SUITE, root, b"base_nonce", schedule, 12), ciphertext, b"")


# -- the log -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    data: bytes
    fields: dict[str, Any]

    @property
    def number(self) -> int:
        return int(self.fields["sequence"])

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @property
    def kind(self) -> str:
        return str(self.fields["kind"])

    @property
    def public(self) -> dict[str, Any]:
        return dict(self.fields["public"])


ENTRY = {"format", "repository", "sequence", "previous", "kind", "created_at", "write_id", "public", "body", "signer"}


def parse_entry(data: bytes, number: int) -> Entry | None:
    """``None``: it is no entry."""
    try:
        fields = read_json(data)
        check(set(fields) == ENTRY | {"signature"}, "other fields")
        check(fields["format"] == "holdfast.vault.log/1" and fields["sequence"] == number, "another")
        check(fields["kind"] in (*ANCHORS, "keys", "backup", "hold"), "an unknown kind")
        signed = {name: value for name, value in fields.items() if name != "signature"}
        signer = Ed25519PublicKey.from_public_bytes(from_base64(fields["signer"]))
        signer.verify(from_base64(fields["signature"]), b"holdfast vault 1|log entry|" + rfc8785.dumps(signed))
    except Exception:
        return None
    return Entry(data, fields)


def entries_at(bucket: Bucket, number: int) -> list[Entry]:
    found = []
    for folder in ("log", "log-copies"):
        data = bucket.get(f"{folder}/{number:012d}.json")
        entry = parse_entry(data, number) if data is not None else None
        if entry is not None:
            found.append(entry)
    return found


def named_entry(bucket: Bucket, number: int, digest: str) -> Entry:
    for entry in entries_at(bucket, number):
        if entry.digest == digest:
            return entry
    raise Refused(f"entry {number} is missing or another")


@dataclass
class State:
    repository: str
    keys: dict[str, Any]
    tip: Entry
    live: dict[int, Entry] = field(default_factory=dict)
    held: set[int] = field(default_factory=set)
    indexes: dict[str, str] = field(default_factory=dict)
    collected: dict[str, int] = field(default_factory=dict)

    def entitles(self, entry: Entry) -> bool:
        role = dict(self.keys["signers"]).get(entry.fields["signer"])
        return entry.fields["repository"] == self.repository and role in SIGNERS.get(entry.kind, ("admin",))


def trace_keys(bucket: Bucket, repository: str, anchor: Entry) -> dict[str, Any]:
    """The keys an anchor was signed under, traced back to the repository's id."""
    chain = (
        [anchor]
        if anchor.kind == "init"
        else [named_entry(bucket, number, digest) for number, digest in anchor.public["state"]["keys"]]
    )
    first, *changes = chain
    signer = from_base64(first.fields["signer"])
    proof = hashlib.sha256(b"holdfast vault 1|repository|" + signer).digest()[:16].hex()
    check(first.number == 1 and first.kind == "init" and proof == repository, "begun by another key")
    keys = first.public["keys"]
    check(dict(keys["signers"]).get(first.fields["signer"]) == "admin", "its beginner is no admin")
    for change in changes:
        check(change.kind == "keys" and change.fields["repository"] == repository, "no change of keys")
        check(dict(keys["signers"]).get(change.fields["signer"]) == "admin", "changed by no admin")
        keys = change.public["keys"]
    check(dict(keys["signers"]).get(anchor.fields["signer"]) == "admin", "an anchor by no admin")
    return dict(keys)


def read_log(bucket: Bucket, repository: str) -> State:
    names = (re.fullmatch(r"log(?:-copies)?/([0-9]{12})\.json", key) for key in bucket)
    numbers = sorted({int(match[1]) for match in names if match})
    for number in reversed(numbers):
        for entry in entries_at(bucket, number):
            if entry.kind in ANCHORS and entry.fields["repository"] == repository:
                try:
                    keys = trace_keys(bucket, repository, entry)
                except Refused:
                    continue
                return follow(bucket, from_anchor(bucket, repository, entry, keys), numbers)
    raise Refused("no anchor")


def from_anchor(bucket: Bucket, repository: str, anchor: Entry, keys: dict[str, Any]) -> State:
    state = State(repository, keys, anchor)
    if anchor.kind != "init":
        said = anchor.public["state"]
        state.live = {number: named_entry(bucket, number, digest) for number, digest in said["live"]}
        check(all(entry.kind == "backup" for entry in state.live.values()), "a live one that is no backup")
        state.held, state.indexes = set(said["held"]), dict(said["indexes"])
        state.collected = dict(said["collected"])
    return state


def follow(bucket: Bucket, state: State, numbers: list[int]) -> State:
    for number in numbers:
        if number <= state.tip.number:
            continue
        found = [entry for entry in entries_at(bucket, number) if state.entitles(entry)]
        if not found or number - state.tip.number > 1_000_000:
            continue
        entry = found[0]
        check(entry.fields["previous"] == state.tip.digest, "an entry that does not follow the one before it")
        state.tip = entry
        if entry.kind == "backup":
            state.live[number] = entry
            state.indexes = {**dict(entry.public["indexes"]), **state.indexes}
        elif entry.kind == "keys":
            state.keys = entry.public["keys"]
        elif entry.kind == "hold":
            named = set(entry.public["backups"]) & state.live.keys()
            state.held = state.held | named if entry.public["held"] else state.held - named
        else:
            fresh = from_anchor(bucket, state.repository, entry, state.keys)
            check(fresh.live.items() <= state.live.items(), "an anchor with backups that were not live")
            state = fresh
    return state


# -- keys ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Secrets:
    repository: bytes
    root: bytes
    private: dict[int, bytes]

    def derived(self, what: str) -> bytes:
        return hkdf(self.root, self.repository, b"holdfast vault 1|root|" + what.encode(), 32)


def unlock(bucket: Bucket, state: State, role: str, unwrap: Callable[[str, str, bytes], bytes | None]) -> Secrets:
    """Args: unwrap: given a recipient's kind and name, the unwrapped key, or ``None``."""
    name = state.keys["keysets"][role]
    for copy in ("a", "b"):
        data = bucket.get(f"keys/{name}.{copy}.json")
        if data is None or hashlib.sha256(data).hexdigest() != name:
            continue
        found = read_json(data)
        check(set(found) == {"format", "repository", "role", "keyset", "recipients", "sealed"}, "other fields")
        check(found["format"] == "holdfast.vault.keys/1", "another format")
        check((found["role"], found["repository"]) == (role, state.repository), "another role or repository")
        for one in found["recipients"]:
            key = unwrap(one["kind"], one["key"], from_base64(one["wrapped"]))
            if key is not None:
                repository = bytes.fromhex(state.repository)
                inner = read_json(unseal(key, b"K", repository, from_base64(found["sealed"])))
                check((inner["role"], inner["repository"]) == (role, state.repository), "another role inside")
                private = {int(number): from_base64(text) for number, text in inner["private"].items()}
                return Secrets(repository, from_base64(inner["root"]), private)
        raise Refused("no key at hand")
    raise Refused("no key object")


def unwrap_secret(name: str, secret: bytes) -> Callable[[str, str, bytes], bytes | None]:
    return lambda kind, key, wrapped: aes_key_unwrap(secret, wrapped) if (kind, key) == ("secret", name) else None


# -- packs, indexes, trees -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    pack: str
    position: int
    name: bytes
    offset: int
    stored: int
    plain: int
    codec: int


def arrow(data: bytes, form: bytes | None) -> list[dict[str, Any]]:
    source = io.BytesIO(data)
    with pa.ipc.open_stream(source) as stream:
        table = stream.read_all()
    check(source.tell() == len(data), "something after the stream")
    table.validate(full=True)
    check((table.schema.metadata or {}).get(b"format") == form, "another format")
    return list(table.to_pylist())


def read_index(data: bytes, secrets: Secrets) -> Iterator[tuple[dict[str, Any], list[Chunk]]]:
    packed = unseal(secrets.derived("metadata"), b"I", secrets.repository, data)
    check(0 < zstandard.frame_content_size(packed) <= 2**30, "too large")
    plain = zstandard.ZstdDecompressor().decompress(packed, allow_extra_data=False)
    first = 4 + int.from_bytes(plain[:4], "big")
    packs, rows = arrow(plain[4:first], b"holdfast.vault.index/1"), arrow(plain[first:], None)
    check(sum(pack["chunks"] for pack in packs) == len(rows), "counts that do not add up")
    at = 0
    for pack in packs:
        check(pack["tier"] in TIERS and pack["class"] in (1, 2), "an unknown tier or class")
        key = f"packs/{pack['tier']}/{pack['pack_id'].hex()[:2]}/{pack['pack_id'].hex()}"
        chunks = []
        for position, row in enumerate(rows[at : at + pack["chunks"]]):
            check(row["offset"] + row["stored_bytes"] <= pack["size_bytes"], "a chunk outside its pack")
            names = ("chunk_id", "offset", "stored_bytes", "plain_bytes", "codec")
            chunks.append(Chunk(key, position, *(row[name] for name in names)))
        at += pack["chunks"]
        yield pack, chunks


@dataclass
class Vault:
    """An opened vault: ``chunks`` says where each lies."""

    bucket: Bucket
    state: State
    secrets: Secrets
    chunks: dict[bytes, Chunk] = field(default_factory=dict)

    @classmethod
    def open(cls, bucket: Bucket, repository: str, unwrap: Callable[[str, str, bytes], bytes | None]) -> Vault:
        state = read_log(bucket, repository)
        vault = cls(bucket, state, unlock(bucket, state, "reader", unwrap))
        for name, digest in state.indexes.items():
            data = bucket[f"indexes/{name}"]
            check(f"blake3:{blake3.blake3(data).hexdigest()}" == digest, "another index")
            for pack, chunks in read_index(data, vault.secrets):
                if pack["pack_id"].hex() not in state.collected:
                    for chunk in chunks:
                        vault.chunks.setdefault(chunk.name, chunk)
        return vault

    def chunk(self, name: bytes, of_class: int) -> bytes:
        at = self.chunks[name]
        data = self.bucket[at.pack]
        pack_id = bytes.fromhex(at.pack.rpartition("/")[2])
        key, repository = self.pack_key(data, pack_id, of_class), self.secrets.repository
        context = b"HFV1" + repository + bytes([of_class]) + pack_id + name + bytes([at.codec])
        stored = data[at.offset : at.offset + at.stored]
        plain = key.decrypt(at.position.to_bytes(12, "big"), stored, context + at.plain.to_bytes(4, "big"))
        if at.codec == 1:
            check(zstandard.frame_content_size(plain) == at.plain <= (2**24, 2**28)[of_class - 1], "another size")
            plain = zstandard.ZstdDecompressor().decompress(plain, allow_extra_data=False)
        check(len(plain) == at.plain, "another size")
        named = blake3.blake3(bytes([of_class]) + plain, key=self.secrets.derived("chunk ids")).digest()
        check(named == name, "other content than its name says")
        return plain

    def pack_key(self, data: bytes, pack_id: bytes, of_class: int) -> AESGCM:
        repository = self.secrets.repository
        check(data[:6] == b"HFVP\x01" + bytes([of_class]), "no pack of this class")
        check(data[8:24] == repository and data[24:40] == pack_id, "another pack")
        generation, length = int.from_bytes(data[6:8], "big"), int.from_bytes(data[72:74], "big")
        if of_class == 2:
            check((generation, length) == (0, 0), "a sealed key in a pack of trees")
            secret = self.secrets.derived("metadata")
        else:
            check(length == 80, "a sealed key of another length")
            info = b"holdfast vault 1|pack key|" + repository + pack_id + generation.to_bytes(2, "big")
            secret = open_hpke(self.secrets.private[generation], data[74:154], info)
        return object_key(secret, pack_id, b"pack|" + repository + bytes([of_class]), data[40:72])

    def table(self, pack: str) -> tuple[int, list[Chunk]]:
        """The table at a pack's end, with which a lost index is made anew."""
        data, pack_id = self.bucket[pack], bytes.fromhex(pack.rpartition("/")[2])
        length, end = int.from_bytes(data[-8:-4], "big"), data[-4:]
        check(end == b"HFVE", "no end")
        sealed = data[-8 - length : -8]
        plain = unseal(self.secrets.derived("metadata"), b"T", self.secrets.repository, sealed)
        check(plain[1:17] == pack_id and (len(plain) - 17) % 49 == 0, "another pack's table")
        chunks = []
        place = 74 if plain[0] == 2 else 154
        for position, at in enumerate(range(17, len(plain), 49)):
            row = plain[at : at + 49]
            offset, stored, size = (int.from_bytes(row[a:b], "big") for a, b in ((32, 40), (40, 44), (44, 48)))
            check(offset == place, "a gap")
            place += stored
            chunks.append(Chunk(pack, position, row[:32], offset, stored, size, row[48]))
        check(place == len(data) - 8 - length, "a gap")
        return plain[0], chunks

    def body(self, number: int) -> dict[str, Any]:
        sealed = from_base64(self.state.live[number].fields["body"])
        return read_json(unseal(self.secrets.derived("metadata"), b"E", self.secrets.repository, sealed))

    def rows(self, number: int) -> Iterator[dict[str, Any]]:
        last = b""
        for name, first, count, size in self.body(number)["segments"]:
            rows = arrow(self.chunk(bytes.fromhex(name), 2), b"holdfast.vault.tree/1")
            check(rows[0]["path"] == first and len(rows) == count, "another segment")
            check(sum(row["size_bytes"] for row in rows) == size, "another size")
            for row in rows:
                check(last < row["path"].encode() or not last, "out of order")
                last = row["path"].encode()
                yield row

    def files(self, number: int) -> dict[str, bytes]:
        """A backup's objects, each checked."""
        found: dict[str, bytes] = {}
        for row in self.rows(number):
            data = b"".join(self.chunk(name, 1) for name in row["chunks"])
            check(len(data) == row["size_bytes"], "another size")
            check(f"blake3:{blake3.blake3(data).hexdigest()}" == row["digest"], "another digest")
            found[row["path"]] = data
        return found


# -- witnesses -----------------------------------------------------------------------------------------------------


def witnessed(bucket: Bucket, state: State) -> tuple[int, str] | None:
    """The newest entry that is witnessed there by a current signer."""
    prefix = f"vault-witness/{state.repository}/"
    for key in sorted(bucket, reverse=True):
        match = re.fullmatch(re.escape(prefix) + r"([0-9]{12})\.json", key)
        if match is None:
            continue
        fields = read_json(bucket[key])
        signed = {name: value for name, value in fields.items() if name != "signature"}
        if fields["signer"] in dict(state.keys["signers"]) and fields["sequence"] == int(match[1]):
            Ed25519PublicKey.from_public_bytes(from_base64(fields["signer"])).verify(
                from_base64(fields["signature"]), b"holdfast vault 1|witness|" + rfc8785.dumps(signed)
            )
            return int(match[1]), str(fields["digest"])
    return None
