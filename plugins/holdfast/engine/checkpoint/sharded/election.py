"""Electing a checkpoint with all ranks: rank 0 decides, and everybody reads a part of the bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from pydantic import JsonValue

from holdfast.engine.checkpoint.elect import Election, PassedOver, elect
from holdfast.engine.checkpoint.errors import CheckpointError, RankLost
from holdfast.engine.checkpoint.format import CheckpointManifest, parse_manifest
from holdfast.engine.checkpoint.sharded.ranks import Ranks, retold, told
from holdfast.engine.checkpoint.verify import blob_damage, content_sizes
from holdfast.engine.objectstore.interface import ObjectStore
from holdfast.errors import HoldfastError


def elect_together(
    ranks: Ranks,
    store: ObjectStore,
    run: str,
    *,
    epoch: int,
    site: str | None,
    fingerprint: Mapping[str, str],
) -> Election:
    """`elect`, the same answer at every rank, each blob read by one of them. Every rank calls it.

    Raises:
        RankLost; else what `elect` raises, at every rank.
    """
    if ranks.world == 1:
        return elect(store, run, epoch=epoch, site=site, fingerprint=fingerprint)
    if not ranks.leads:
        return _follow(ranks, store)

    def damage_of(_store: ObjectStore, manifest: CheckpointManifest) -> str | None:
        ranks.exchange({"read": manifest.data.decode()})
        return _verdict(ranks, store, manifest)

    try:
        election = elect(store, run, epoch=epoch, site=site, fingerprint=fingerprint, damage_of=damage_of)
    except RankLost:
        raise
    except Exception as error:  # else the others would wait for this one until they time out
        ranks.exchange({"failed": dict(told(_as_told(error)))})
        raise
    ranks.exchange({"elected": _to_json(election)})
    return election


def _follow(ranks: Ranks, store: ObjectStore) -> Election:
    while True:
        message: dict[str, Any] = ranks.exchange(None)[0]
        if "failed" in message:
            raise retold(message["failed"])
        if "elected" in message:
            return _from_json(message["elected"])
        ranks.exchange(_read_share(ranks, store, _manifest(message["read"])))


def _verdict(ranks: Ranks, store: ObjectStore, manifest: CheckpointManifest) -> str | None:
    """What is wrong with a checkpoint, by everybody's reading. Raises what a rank met, at the leader alone."""
    answers = ranks.exchange(_read_share(ranks, store, manifest))
    for rank, answer in enumerate(answers):
        if answer["failed"] is not None:
            raise retold(answer["failed"], rank)
    return next((answer["damage"] for answer in answers if answer["damage"] is not None), None)


def _read_share(ranks: Ranks, store: ObjectStore, manifest: CheckpointManifest) -> dict[str, JsonValue]:
    # By size, in turn: the ranks read about as much as each other.
    by_size = sorted(manifest.blobs.items(), key=lambda one: (-one[1].size_bytes, one[0]))
    try:
        sizes = content_sizes(manifest)
        found = (blob_damage(store, manifest.run, *one, sizes=sizes) for one in by_size[ranks.rank :: ranks.world])
        return {"damage": next((against for against in found if against is not None), None), "failed": None}
    except Exception as error:  # else this rank would leave the others waiting
        return {"damage": None, "failed": dict(told(_as_told(error)))}


def _as_told(error: Exception) -> HoldfastError:
    if isinstance(error, HoldfastError):
        return error
    return CheckpointError("the election failed", found=f"{type(error).__name__}: {error}")


def _to_json(election: Election) -> JsonValue:
    return {
        **asdict(election),
        "manifest": election.manifest.data.decode() if election.manifest else None,
        "passed_over": [asdict(one) for one in election.passed_over],
        "differences": list(election.differences),
    }


def _from_json(facts: dict[str, Any]) -> Election:
    manifest = _manifest(facts["manifest"]) if facts["manifest"] is not None else None
    return Election(
        **{
            **facts,
            "manifest": manifest,
            "passed_over": tuple(PassedOver(**one) for one in facts["passed_over"]),
            "differences": tuple(facts["differences"]),
        }
    )


def _manifest(text: str) -> CheckpointManifest:
    return parse_manifest(text.encode(), where="rank 0")
