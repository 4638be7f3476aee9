"""The keys of the subjects: at every site of the ledger, beside it, never locked and in no export.

Below ``<audit.prefix>-subjects/`` (docs/formats/audit-export.md)::

    ring.json                     32 random bytes, wrapped by `audit.privacy.master_key`; all else is derived from them
    keys/<64 hex>.json            a subject's key, by HMAC-SHA256(index key, subject)
    shredded/<seal>-<key id>.note certificates of keys that were removed

The first site decides which key a subject has, so two exporters use the same. Another site never has a key that the
first one lacks: that would be what an incomplete shredding left behind.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Literal

from pydantic import Field, ValidationError

from holdfast.engine.audit.errors import Tampered
from holdfast.engine.audit.signing import login_of
from holdfast.engine.config.audit import Audit
from holdfast.engine.objectstore.errors import ObjectNotFound, ObjectStoreError
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.engine.objectstore.prefixed import PrefixedStore
from holdfast.engine.runtime import Runtime
from holdfast.engine.snapshot.documents import Document
from holdfast.engine.snapshot.once import create_or_read
from holdfast.engine.vault.errors import WrongKey
from holdfast.engine.vault.recipient_urls import recipient_from_url
from holdfast.engine.vault.recipients import Recipient
from holdfast.errors import ConfigError, Refused

RING, KEYS, SHREDDED = "ring.json", "keys/", "shredded/"
_KEY_BYTES, _ID_BYTES, _NONCE_BYTES = 32, 16, 12
_THREADS = 8


@dataclass(frozen=True)
class SubjectKey:
    """The key of one subject. Its id tells nothing of the subject, and is all that stays when the key is gone."""

    key: bytes = field(repr=False)

    @property
    def key_id(self) -> bytes:
        """16 bytes that name the key in exports and certificates."""
        return sha256(b"holdfast subject key\n" + self.key).digest()[:_ID_BYTES]

    def pseudonym(self, value: str) -> str:
        """What stands in the place of a value that names the subject."""
        return "p:" + hmac.new(self.key, value.encode(), "sha256").hexdigest()[:32]


class _Ring(Document):
    format: Literal["holdfast.subject-ring/1"] = "holdfast.subject-ring/1"
    recipient: str
    key_name: str
    wrapped: str


class KeyObject(Document):
    """A subject's key as it lies at the sites."""

    format: Literal["holdfast.subject-key/1"] = "holdfast.subject-key/1"
    key_id: str = Field(pattern=r"^[0-9a-f]{32}$")
    nonce: str = Field(pattern=r"^[0-9a-f]{24}$")
    wrapped: str = Field(pattern=r"^[0-9a-f]{96}$")


class SubjectKeys:
    """The keys at the ledger's sites.

    Args:
        origin: the ledger's name.
        stores: by site, in the ledger's order, each below the keys' prefix.
        recipient: opens ``ring.json``.
        opens_only: nothing is created: for a verifier.
    """

    def __init__(
        self, origin: str, stores: Mapping[str, ObjectStore], recipient: Recipient, *, opens_only: bool = False
    ) -> None:
        self.origin, self.stores = origin, dict(stores)
        self.first = next(iter(self.stores))
        self._recipient = recipient
        root = self._root(opens_only=opens_only)
        self._index, self._wrapping = _derived(root, b"index"), _derived(root, b"wrapping")
        self._known: dict[str, SubjectKey] = {}

    def _root(self, *, opens_only: bool) -> bytes:
        store = self.stores[self.first]
        context = {"holdfast": "audit-subjects", "origin": self.origin}
        try:
            data = store.get(RING)
        except ObjectNotFound:
            if opens_only:
                raise ConfigError(
                    "this ledger has no keys of subjects", where=f"{store.name}/{RING}", expected="it", found="nothing"
                ) from None
            self._require_none_elsewhere()
            wrapped = base64.b64encode(self._recipient.wrap(os.urandom(_KEY_BYTES), context)).decode()
            made = _Ring(recipient=self._recipient.kind, key_name=self._recipient.key_name, wrapped=wrapped)
            data = create_or_read(store, RING, made.to_json(), content_type="application/json")
            for _site, other in self.others():
                self._copy(other, RING, data)
        where = f"{store.name}/{RING}"
        try:
            ring = _Ring.model_validate(json.loads(data))
            packed = base64.b64decode(ring.wrapped, validate=True)
        except (ValidationError, ValueError) as error:
            raise _damaged(where, str(error)) from None
        try:
            root = self._recipient.unwrap(packed, context)
        except WrongKey as error:
            raise ConfigError(
                "audit.privacy.master_key does not open this ledger's keys of subjects",
                where=where,
                expected=f"the key they were made with: {ring.recipient} {ring.key_name}",
                found=str(error),
                fix="Name that key; if it is that one, the object was changed: copy it from another site of the ledger",
            ) from None
        if len(root) != _KEY_BYTES:
            raise _damaged(where, f"{len(root)} bytes")
        return root

    def _require_none_elsewhere(self) -> None:
        for site, store in self.others():
            if any(True for _ in store.list()) and not _is_at(self.stores[self.first], RING):
                raise Refused(
                    "the first site has no keys of subjects, and another one has",
                    where=f"{self.stores[self.first].name}/{RING}",
                    expected=f"the ring that {site} has",
                    found="nothing",
                    fix=f"Copy everything below the keys' prefix from {site}",
                )

    def others(self) -> list[tuple[str, ObjectStore]]:
        """The sites but the first."""
        return list(self.stores.items())[1:]

    def object_name(self, subject: str) -> str:
        """Where a subject's key lies."""
        return f"{KEYS}{hmac.new(self._index, subject.encode(), 'sha256').hexdigest()}.json"

    # -- using them --------------------------------------------------------------------------------------------------

    def of(self, subjects: Iterable[str]) -> list[SubjectKey]:
        """The keys of subjects, made where there are none.

        Raises:
            Tampered: a key object is not what was written.
            Refused: another site has another key.
            ObjectStoreError: the first site does not answer.
        """
        wanted = list(subjects)
        new = [subject for subject in dict.fromkeys(wanted) if subject not in self._known]
        if new:
            with ThreadPoolExecutor(_THREADS) as pool:
                self._known.update(zip(new, pool.map(self._get_or_make, new), strict=True))
        return [self._known[subject] for subject in wanted]

    def _get_or_make(self, subject: str) -> SubjectKey:
        name = self.object_name(subject)
        store = self.stores[self.first]
        try:
            return self.parse(name, store.get(name), store.name)
        except ObjectNotFound:
            made = self._wrapped(name, SubjectKey(os.urandom(_KEY_BYTES)))
        data = create_or_read(store, name, made, content_type="application/json")
        found = self.parse(name, data, store.name)
        for _site, other in self.others():
            self._copy(other, name, data)
        return found

    def _copy(self, store: ObjectStore, name: str, data: bytes) -> None:
        """To a site that may be away: `settle` makes up for it."""
        try:
            found = create_or_read(store, name, data, content_type="application/json")
        except ObjectStoreError:
            return
        if found != data:
            raise _left_behind(store.name, name)

    def _wrapped(self, name: str, key: SubjectKey) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        wrapped = AESGCM(self._wrapping).encrypt(nonce, key.key, self._bound(name))
        return KeyObject(key_id=key.key_id.hex(), nonce=nonce.hex(), wrapped=wrapped.hex()).to_json()

    def _bound(self, name: str) -> bytes:
        return f"{self.origin}\n{name}".encode()

    def parse(self, name: str, data: bytes, where: str) -> SubjectKey:
        """A key from its object. Raises Tampered."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        found = parse_key_object(data, f"{where}/{name}")
        try:
            key = SubjectKey(
                AESGCM(self._wrapping).decrypt(
                    bytes.fromhex(found.nonce), bytes.fromhex(found.wrapped), self._bound(name)
                )
            )
        except InvalidTag:
            raise _damaged(f"{where}/{name}", "bytes that the ring does not open") from None
        if key.key_id.hex() != found.key_id:
            raise _damaged(f"{where}/{name}", f"key id {found.key_id}")
        return key

    def by_id(self) -> dict[bytes, SubjectKey]:
        """Every key the first site has, by its id: for who opens an export. A damaged one is Tampered."""
        store = self.stores[self.first]

        def read(name: str) -> SubjectKey | None:
            try:
                return self.parse(name, store.get(name), store.name)
            except ObjectNotFound:
                return None  # shredded since it was listed

        with ThreadPoolExecutor(_THREADS) as pool:
            return {key.key_id: key for key in pool.map(read, self._names(store, KEYS)) if key is not None}

    # -- keeping them ------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Bring other sites what they lack.

        Raises:
            Refused: a site has keys that the first lacks: a shredding was not completed, or the first lost them.
            ObjectStoreError: the first site does not answer.
        """
        there: dict[str, set[str]] = {}
        for site, store in self.others():
            try:
                there[site] = {*self._names(store, KEYS), *self._names(store, RING), *self._names(store, SHREDDED)}
            except ObjectStoreError:
                continue
        home = self.stores[self.first]
        mine = {*self._names(home, KEYS), RING, *self._names(home, SHREDDED)}
        for site, names in there.items():
            store = self.stores[site]
            for name in sorted(names - mine):
                if name.startswith(KEYS) and not _is_at(home, name) and _is_at(store, name):
                    raise _left_behind(store.name, name)
            for name in sorted(mine - names):
                try:
                    self._copy(store, name, home.get(name))
                except ObjectNotFound:
                    continue

    @staticmethod
    def _names(store: ObjectStore, prefix: str) -> list[str]:
        return [found.key for found in store.list(prefix)]


def parse_key_object(data: bytes, where: str) -> KeyObject:
    """Raises Tampered."""
    try:
        return KeyObject.model_validate(json.loads(data))
    except (ValidationError, ValueError, RecursionError) as error:
        raise _damaged(where, str(error)[:200]) from None


def open_keys(
    runtime: Runtime, settings: Audit, *, opens_only: bool = False, opener: Callable[..., Recipient] | None = None
) -> SubjectKeys | None:
    """The keys of the topology's subjects; ``None``: subjects are not protected.

    Raises:
        ConfigError: the master key cannot be read, or is not the one the ring was made with.
        Tampered, Refused, ObjectStoreError.
    """
    if settings.privacy is None:
        return None
    recipient = (opener or recipient_from_url)(
        settings.privacy.master_key, environ=runtime.environ, connection=partial(login_of, runtime)
    )
    return SubjectKeys(settings.origin, key_stores(runtime, settings), recipient, opens_only=opens_only)


def folder_of(settings: Audit) -> str:
    """Where the keys lie in each site's bucket."""
    return f"{settings.prefix}-subjects"


def key_stores(runtime: Runtime, settings: Audit) -> dict[str, ObjectStore]:
    """The stores of the keys, in the ledger's order."""
    return {site: PrefixedStore(runtime.store(site, flow="audit"), folder_of(settings)) for site in settings.sites}


def _derived(root: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), _KEY_BYTES, salt=None, info=b"holdfast.subject-ring/1 " + purpose).derive(root)


def _is_at(store: ObjectStore, name: str) -> bool:
    try:
        store.head(name)
    except ObjectNotFound:
        return False
    return True


def _damaged(where: str, found: str) -> Tampered:
    return Tampered(
        "a key of subjects is not what was written",
        where=where,
        expected="an object this ledger's exporter wrote",
        found=found[:200],
        fix="Copy it from another site of the ledger",
    )


def _left_behind(where: str, name: str) -> Refused:
    return Refused(
        "a site has a key that the first site lacks: a shredding was not completed, or the first site lost it",
        where=f"{where}/{name}",
        expected="the first site's keys",
        found="another one",
        fix=f"`holdfast audit shred object:{name.removeprefix(KEYS).removesuffix('.json')}`, or copy it to the first",
    )
