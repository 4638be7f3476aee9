"""A vault beside a model of it: what anybody may do, in any order, with any harm.

The model is what a person would write on paper: which backups are live, what each is of, which are held. Whatever an
operation that was killed or refused left behind must be one of the states it could have ended in.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

from blake3 import blake3
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from holdfast.clock import FakeClock
from holdfast.engine.objectstore.errors import StoreUnavailable
from holdfast.engine.vault import layout
from holdfast.engine.vault.backups import Backup, live_backups
from holdfast.engine.vault.collect import CollectOptions, collect
from holdfast.engine.vault.errors import Damaged, HistoryDamaged, NotEntitled
from holdfast.engine.vault.forget import Keep, forget, hold
from holdfast.engine.vault.keysets import rotate_keys, unlock
from holdfast.engine.vault.mirror import mirror_vault, trim_mirror
from holdfast.engine.vault.recipients import SecretRecipient
from holdfast.engine.vault.repair import RepairOptions, repair_vault
from holdfast.engine.vault.restore import RestoreOptions, restore_backup
from holdfast.engine.vault.vault import Vault
from holdfast.errors import Refused
from sync_harms import Killed, Lost, Storm, Trace
from vault_faults import AT_ONCE, OPTIONS, RECIPIENT, DictTarget, KillAtWrite, Sites

#: What the engine draws its ids, keys and places from while the machine runs: the same in each run.
DRAWS = random.Random(0)
SOURCES = ("tables", "models")
PATHS = ("a", "b/c", "b/d", "e")
SMALL = replace(OPTIONS, pack_bytes=1500)

#: Content from a small pool, so that much of it is shared.
contents = st.integers(0, 11).map(lambda seed: blake3(b"%d" % seed).digest((0, 40, 90, 700)[seed % 4]))
hours = st.sampled_from([0, 1, 5, 26, 60])
graces = st.sampled_from([0, 1, 24])
skews = st.sampled_from([0, 0, 0, -1, 1, -24 * 365, 24 * 365])


@dataclass(frozen=True)
class Harming:
    """What happens to one operation.

    Args:
        kind: ``none``; ``kill``: it dies at its n-th write; ``storm``: 503s and a client that tries again; ``ill``:
            503s and one that does not; ``lost``: answers that are lost.
    """

    kind: str = "none"
    nth: int = 0
    after_it: bool = False

    def trace(self) -> Trace | None:
        rng = random.Random(self.nth)
        if self.kind == "kill":
            return Trace([KillAtWrite(self.nth, self.after_it)])
        if self.kind in ("storm", "ill"):
            return Trace([Storm(rng, 0.2 if self.kind == "storm" else 0.04)])
        return Trace([Lost(rng, 0.2)]) if self.kind == "lost" else None


def harm_of(seed: int) -> Harming:
    """Drawn evenly: Hypothesis, left alone, hardly ever kills an operation at its first writes."""
    rng = random.Random(seed)
    kind = rng.choice(("none", "none", "none", "kill", "kill", "storm", "ill", "lost"))
    return Harming(kind, min(rng.randrange(14), rng.randrange(14)) if kind == "kill" else seed, rng.random() < 0.5)


harms = st.integers(0, 9_999).map(harm_of)


@dataclass
class Known:
    """A live backup of the model."""

    source: str
    state: str
    held: bool = False


@dataclass
class Sleeper:
    """A vault somebody opened and did not use yet.

    Args:
        rotated: how often the writer's signing key, and the reader's key pair, had been changed then.
    """

    vault: Vault
    role: str
    signers: int
    generations: int


@dataclass
class Model:
    live: dict[str, Known] = field(default_factory=dict)
    mirrored: dict[str, Known] = field(default_factory=dict)
    signers: int = 0
    generations: int = 0


def run_machine(examples: int, steps: int, *, shrink: bool = True) -> int:
    """Run the rules in always the same orders. Returns how many steps were made; raises what they find."""
    before = VaultMachine.steps
    run_state_machine_as_test(
        VaultMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=True,
            database=None,
            deadline=None,
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
    return VaultMachine.steps - before


class VaultMachine(RuleBasedStateMachine):
    """The rules. ``steps`` counts those of all runs."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        DRAWS.seed(0)
        self.model = Model()
        self.files: dict[str, dict[str, bytes]] = {source: {} for source in SOURCES}
        self.sleepers: list[Sleeper] = []

    @initialize(contents=st.lists(contents, min_size=4, max_size=4))
    def make(self, contents: list[bytes]) -> None:
        self.sites = Sites().make()
        for source in SOURCES:
            self.files[source] = dict(zip(PATHS, contents, strict=True))

    # -- doing things ------------------------------------------------------------------------------------------------

    def _do(self, harm: Harming, action: Callable[[], object]) -> bool:
        """Whether it went through. What stopped it must be the harm."""
        type(self).steps += 1
        self.sites.trace = harm.trace()
        self.sites.retries = harm.kind == "storm"
        try:
            action()
        except (Killed, StoreUnavailable):
            assert harm.kind in ("kill", "ill", "lost")
            return False
        finally:
            self.sites.trace, self.sites.retries = None, False
        return True

    def _live_now(self) -> dict[str, Backup]:
        """What is live; there is no alarm, and nothing is wrong with any copy that nobody harmed."""
        vault = self.sites.open()
        assert vault.alarm is None, str(vault.alarm)
        return {backup.backup_id: backup for backup in live_backups(vault)}

    def _clock(self, skew: int) -> FakeClock:
        return FakeClock(self.sites.clock.now() + timedelta(hours=skew))

    def _check_model(self) -> dict[str, Backup]:
        found = self._live_now()
        there = {name: (backup.source, backup.labels["state"], backup.held) for name, backup in found.items()}
        model = {name: (known.source, known.state, known.held) for name, known in self.model.live.items()}
        assert there == model, f"there: {there}; by the model: {model}"
        return found

    # -- the source, time --------------------------------------------------------------------------------------------

    @rule(source=st.sampled_from(SOURCES), path=st.sampled_from(PATHS), content=contents)
    def change(self, source: str, path: str, content: bytes) -> None:
        type(self).steps += 1
        self.files[source][path] = content

    @rule(source=st.sampled_from(SOURCES), path=st.sampled_from(PATHS))
    def remove(self, source: str, path: str) -> None:
        type(self).steps += 1
        self.files[source].pop(path, None)

    @precondition(lambda self: self.sites.states)
    @rule(source=st.sampled_from(SOURCES), data=st.data())
    def go_back(self, source: str, data: st.DataObject) -> None:
        """The source is again as it was at some time: a good deal of it may be forgotten by now."""
        type(self).steps += 1
        states = self.sites.states
        self.files[source] = dict(states[f"state-{data.draw(st.integers(0, len(states) - 1))}"])

    @rule(hours=hours)
    def wait(self, hours: int) -> None:
        type(self).steps += 1
        self.sites.clock.advance(hours * 3600 + 1)

    # -- writers -----------------------------------------------------------------------------------------------------

    def _back_up(self, source: str, harm: Harming, skew: int, vault: Vault | None = None) -> None:
        clock = self._clock(skew)
        state = f"state-{len(self.sites.states)}"

        def action() -> None:
            opened = vault or self.sites.open("writer", clock=clock)
            self.sites.back_up(
                self.files[source], source=source, vault=opened, options=SMALL, taken_at=clock.now(), state=state
            )

        done = self._do(harm, action)
        found = self._live_now()
        new = [backup for name, backup in found.items() if name not in self.model.live]
        assert len(new) == 1 if done else len(new) <= 1, "it is there once, or not at all"
        for backup in new:
            assert backup.labels["state"] == state
            self.model.live[backup.backup_id] = Known(source, state)
        self._check_model()

    @rule(source=st.sampled_from(SOURCES), harm=harms, skew=skews)
    def back_up(self, source: str, harm: Harming, skew: int) -> None:
        self._back_up(source, harm, skew)

    @rule(source=st.sampled_from(SOURCES), grace=graces, hours=hours, collections=st.integers(1, 3))
    def back_up_while_others_clean_up(self, source: str, grace: int, hours: int, collections: int) -> None:
        """Between the first look at the index and the entry lie a retention, some time, and collections.

        After several the entries that came next are gone from the log: their numbers are free again. The source is as
        it was at its oldest backup: what the retention takes away is what this one would like to reuse.
        """
        running = self.sites.open("writer")
        oldest = next((known for known in self.model.live.values() if known.source == source), None)
        if oldest is not None:
            self.files[source] = dict(self.sites.states[oldest.state])
        self._forget(Keep(last=1), None, Harming())
        for _ in range(collections):
            self.sites.clock.advance(hours * 3600 + 1)
            self._collect(grace, grace, repack=False, harm=Harming())
        self._back_up(source, Harming(), 0, running)

    @rule(source=st.sampled_from(SOURCES), what=st.sampled_from(["recipients", "generation", "signer"]))
    def back_up_while_the_keys_change(self, source: str, what: str) -> None:
        """A writer whose own key was replaced writes nothing; any other goes on."""
        running = self.sites.open("writer")
        self.rotate_now(what, Harming())
        if what == "signer":
            self._expect(NotEntitled, lambda: self._back_up(source, Harming(), 0, running))
        else:
            self._back_up(source, Harming(), 0, running)

    # -- administrators ----------------------------------------------------------------------------------------------

    def _forget(self, keep: Keep, source: str | None, harm: Harming, vault: Vault | None = None) -> None:
        before = dict(self.model.live)

        def action() -> None:
            forget(vault or self.sites.open("admin"), keep, source=source)

        done = self._do(harm, action)
        found = self._live_now()
        gone = before.keys() - found.keys()
        assert found.keys() <= before.keys()
        assert not [name for name in gone if before[name].held], "a legal hold holds"
        for of in SOURCES:
            theirs = [name for name, known in before.items() if known.source == of]
            assert not theirs or set(theirs) - gone, "the newest of a source stays"
            assert source in (None, of) or not set(theirs) & gone
        if done and vault is None and keep.last and not any((keep.hourly, keep.daily)):
            kept = [
                name for name, known in before.items() if known.source == source and not known.held and name in found
            ]
            assert source is None or len(kept) <= keep.last + 1
        for name in gone:
            del self.model.live[name]
        self._check_model()

    @rule(
        last=st.integers(1, 2),
        daily=st.integers(0, 1),
        source=st.sampled_from([*SOURCES, None]),
        harm=harms,
    )
    def forget(self, last: int, daily: int, source: str | None, harm: Harming) -> None:
        self._forget(Keep(last=last, daily=daily), source, harm)

    @precondition(lambda self: self.model.live)
    @rule(data=st.data(), harm=harms)
    def forget_one(self, data: st.DataObject, harm: Harming) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.live)))
        refused = self.model.live[name].held

        def action() -> None:
            try:
                forget(self.sites.open("admin"), backups=[name])
            except Refused:
                assert refused
            else:
                assert not refused

        done = self._do(harm, action)
        gone = self.model.live.keys() - self._live_now().keys()
        assert gone <= {name}
        assert not (gone and refused)
        assert gone or refused or not done
        for name in gone:
            del self.model.live[name]
        self._check_model()

    @precondition(lambda self: self.model.live)
    @rule(data=st.data(), held=st.booleans(), harm=harms)
    def hold(self, data: st.DataObject, held: bool, harm: Harming) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.live)))

        def action() -> None:
            vault = self.sites.open("admin")
            hold(vault, [backup for backup in live_backups(vault) if backup.backup_id == name], held=held)

        done = self._do(harm, action)
        now = self._live_now()[name].held
        assert now == held or (not done and now == self.model.live[name].held)
        self.model.live[name].held = now
        self._check_model()

    def _collect(self, grace: int, orphans: int, repack: bool, harm: Harming, vault: Vault | None = None) -> None:
        options = CollectOptions(timedelta(hours=grace), timedelta(hours=orphans), pack_bytes=1500)

        def action() -> None:
            reader = unlock(self.sites.store(), "reader", self.sites.recipients) if repack else None
            opened = vault or self.sites.open("admin", clock=self._clock(24 * 365))
            collect(opened, replace(options, reader=reader))

        self._do(harm, action)
        self._check_model()

    @rule(grace=graces, orphans=graces, repack=st.booleans(), harm=harms)
    def collect(self, grace: int, orphans: int, repack: bool, harm: Harming) -> None:
        self._collect(grace, orphans, repack, harm)

    @rule(what=st.sampled_from(["recipients", "generation", "signer"]), harm=harms)
    def rotate(self, what: str, harm: Harming) -> None:
        self.rotate_now(what, harm)

    def rotate_now(self, what: str, harm: Harming) -> None:
        sites = self.sites
        new = SecretRecipient(f"key-{len(sites.recipients)}", blake3(b"%d" % len(sites.recipients)).digest())
        known = [*sites.recipients]
        sites.recipients.append(new)

        def action() -> None:
            writer, reader = (unlock(sites.store(), role, known) for role in ("writer", "reader"))
            roles = {"recipients": ("writer", "reader", "admin"), "generation": ("reader",), "signer": ("writer",)}[
                what
            ]
            rotate_keys(
                sites.open("admin"),
                {role: [new] for role in roles},
                writer=writer,
                reader=reader,
                new_generation=what == "generation",
                new_signer=what == "signer",
            )

        self._do(harm, action)
        keys = sites.open().history.keys
        self.model.generations = keys.generation
        self.model.signers = hash(frozenset(keys.signers))
        self._check_model()

    # -- the mirror --------------------------------------------------------------------------------------------------

    @rule(harm=harms)
    def mirror(self, harm: Harming) -> None:
        def action() -> None:
            assert mirror_vault(self.sites.store(), self.sites.mirror_store()).problems == []

        if self._do(harm, action):
            self.model.mirrored = {name: replace(known) for name, known in self.model.live.items()}
            self._check_mirror()
        self._check_model()

    def _check_mirror(self) -> None:
        vault = self.sites.open(store=self.sites.mirror)
        assert vault.alarm is None, str(vault.alarm)
        assert {backup.backup_id for backup in live_backups(vault)} == self.model.mirrored.keys()

    @rule(grace=graces, harm=harms)
    def trim(self, grace: int, harm: Harming) -> None:
        if not self.sites.mirror.objects(layout.LOG):
            return
        age = timedelta(hours=grace)

        def action() -> None:
            vault = self.sites.open(store=self.sites.mirror_store())
            with suppress(HistoryDamaged):  # it lies behind what its witnesses saw, or a copy was broken off
                trim_mirror(vault, grace=age, orphan_age=age)

        self._do(harm, action)
        self._check_model()

    # -- readers -----------------------------------------------------------------------------------------------------

    def _restore(self, vault: Vault, backup: Backup, path: str | None) -> None:
        expected = self.sites.expected(backup)
        wanted = {name: data for name, data in expected.items() if path is None or name == path or path == name[:1]}
        if path is not None and not wanted:
            return
        target = DictTarget()
        restore_backup(vault, backup, target, RestoreOptions(paths=() if path is None else (path,)))
        assert target.files == wanted

    @precondition(lambda self: self.model.live)
    @rule(data=st.data(), path=st.sampled_from([None, None, "a", "b", "b/c"]), harm=st.sampled_from(["none", "storm"]))
    def restore(self, data: st.DataObject, path: str | None, harm: str) -> None:
        name = data.draw(st.sampled_from(sorted(self.model.live)))

        def action() -> None:
            vault = self.sites.open()
            (backup,) = (backup for backup in live_backups(vault) if backup.backup_id == name)
            self._restore(vault, backup, path)

        assert self._do(Harming(harm, 7), action)

    @precondition(lambda self: self.model.mirrored)
    @rule(data=st.data())
    def restore_from_the_mirror(self, data: st.DataObject) -> None:
        """It may lie behind, and a copy may have been broken off; what it had, it has."""
        vault = self.sites.open(store=self.sites.mirror)
        there = [backup for backup in live_backups(vault) if backup.backup_id in self.model.mirrored]
        assert len(there) == len(self.model.mirrored) or {backup.backup_id for backup in there} >= (
            self.model.mirrored.keys() & self.model.live.keys()
        )
        if there:
            self._restore(vault, data.draw(st.sampled_from(there)), None)
        type(self).steps += 1

    @rule()
    def verify(self) -> None:
        type(self).steps += 1
        self.sites.check_verifies()

    # -- those who sleep ---------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.sleepers) < 3)
    @rule(role=st.sampled_from(["writer", "reader", "admin"]))
    def fall_asleep(self, role: str) -> None:
        type(self).steps += 1
        vault = self.sites.open(role)
        signers = hash(frozenset(vault.history.keys.signers))
        self.sleepers.append(Sleeper(vault, role, signers, vault.history.keys.generation))

    @precondition(lambda self: self.sleepers)
    @rule(data=st.data(), source=st.sampled_from(SOURCES), grace=graces)
    def wake_up(self, data: st.DataObject, source: str, grace: int) -> None:
        """Somebody uses the vault he opened long ago, as if nothing had happened."""
        sleeper = self.sleepers.pop(data.draw(st.integers(0, len(self.sleepers) - 1)))
        keys = self.sites.open().history.keys
        if sleeper.role == "writer":
            if sleeper.signers != hash(frozenset(keys.signers)):
                self._expect(NotEntitled, lambda: self._back_up(source, Harming(), 0, sleeper.vault))
            else:
                self._back_up(source, Harming(), 0, sleeper.vault)
        elif sleeper.role == "admin" and data.draw(st.booleans()):
            self._forget(Keep(last=1), None, Harming(), sleeper.vault)
        elif sleeper.role == "admin":
            self._collect(grace, grace, repack=False, harm=Harming(), vault=sleeper.vault)
        else:
            self._wake_reader(sleeper, keys.generation)

    def _expect(self, error: type[Exception], action: Callable[[], object]) -> None:
        try:
            action()
        except error:
            self._check_model()
        else:
            raise AssertionError(f"no {error.__name__}")

    def _wake_reader(self, sleeper: Sleeper, generation: int) -> None:
        type(self).steps += 1
        for backup in live_backups(sleeper.vault):
            live = backup.backup_id in self.model.live
            try:
                self._restore(sleeper.vault, backup, None)
            except NotEntitled:
                assert generation > sleeper.generations, "packs were written anew for a key it does not have"
            except Damaged:
                assert not live, "it was forgotten and collected"

    # -- damage ------------------------------------------------------------------------------------------------------

    @rule(what=st.sampled_from(["entry", "copy", "key", "index", "pack"]), data=st.data(), flip=st.booleans())
    def damage_and_repair(self, what: str, data: st.DataObject, flip: bool) -> None:
        """One object is lost or damaged, and everything is as it was after a repair."""
        type(self).steps += 1
        sites = self.sites
        prefix = {"entry": layout.LOG, "copy": layout.LOG_COPIES, "key": layout.KEYS}.get(what)
        prefix = prefix or {"index": layout.INDEXES, "pack": layout.PACKS}[what]
        keys = sorted(sites.vault.objects(prefix))
        if what in ("entry", "copy"):  # a writer that died right after its entry left it without a copy
            other = layout.LOG_COPIES if what == "entry" else layout.LOG
            keys = [key for key in keys if key.replace(prefix, other) in sites.vault.objects(other)]
        if what == "pack":
            mirror_vault(sites.vault, sites.mirror)
            self.model.mirrored = {name: replace(known) for name, known in self.model.live.items()}
            keys = sorted(sites.mirror.objects(prefix).keys() & set(keys))
        if not keys:
            return
        key = keys[data.draw(st.integers(0, 10_000)) % len(keys)]
        bytes_ = sites.vault.get(key)
        if flip:
            middle = len(bytes_) // 2
            sites.vault.put(key, bytes_[:middle] + bytes([bytes_[middle] ^ 4]) + bytes_[middle + 1 :])
        else:
            sites.vault.delete(key)
        recipients = [*sites.recipients, RECIPIENT]
        options = RepairOptions(reader=unlock(sites.vault, "reader", recipients))
        report = repair_vault(sites.open("admin"), [sites.mirror] if what == "pack" else [], options)
        assert report.lost == []
        assert report.verified is not None
        assert report.verified.affected == {}
        assert report.is_whole
        self._check_model()

    # -- the end -----------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        """Everything is live that should be, and what nobody needs does not stay."""
        if not hasattr(self, "sites"):
            return
        sites = self.sites
        found = self._check_model()
        sites.check_live(at_least=found)
        sites.clock.advance(3600 * 24 * 400)
        for _ in range(5):
            sites.clock.advance(60)
            sites.collect(replace(AT_ONCE, pack_bytes=1500))
        sites.check_nothing_leaked()
        sites.check_verifies()
        mirror_vault(sites.vault, sites.mirror)
        sites.clock.advance(60)
        trim_mirror(sites.open(store=sites.mirror), grace=timedelta(0), orphan_age=timedelta(0))
        self._check_model()
        there, here = sites.check_live(store=sites.mirror), sites.check_live()
        assert [(one.backup_id, one.held) for one in there] == [(one.backup_id, one.held) for one in here]
        assert sites.mirror.objects(layout.PACKS) == sites.vault.objects(layout.PACKS)
        assert sites.mirror.objects(layout.INDEXES) == sites.vault.objects(layout.INDEXES)
