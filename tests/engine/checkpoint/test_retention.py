"""Which checkpoints stay: the policy's, the newest verified, what forks name, and what links the lineage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.checkpoint.worlds import MOMENT, manifest_of
from holdfast.engine.checkpoint.elect import in_line
from holdfast.engine.checkpoint.format import CheckpointManifest
from holdfast.engine.checkpoint.retention import Choice, KeepPolicy, KeepPolicyInvalid, choose
from holdfast.engine.snapshot.lineage import EpochFork, new_fork


def chain(
    *steps: int, epoch: int = 1, parent: CheckpointManifest | None = None, **changes: Any
) -> list[CheckpointManifest]:
    found = []
    for step in steps:
        parent, _ = manifest_of(step, epoch=epoch, parent=parent, **changes)
        found.append(parent)
    return found


def fork_of(epoch: int, manifest: CheckpointManifest | None) -> EpochFork:
    return new_fork(
        "run",
        epoch=epoch,
        parent_epoch=epoch - 1,
        forked_from=manifest.digest if manifest else None,
        site="site-b",
        plan_id="plan",
        holder="test",
        reason="test",
        created_at=MOMENT,
    )


def kept(choice: Choice) -> list[tuple[int, int]]:
    return sorted((one.manifest.step, one.manifest.epoch) for one in choice.retained)


def kept_steps(choice: Choice) -> list[int]:
    return [step for step, _ in kept(choice)]


def digests(manifests: Sequence[CheckpointManifest]) -> set[str]:
    return {manifest.digest for manifest in manifests}


def test_the_last_k_stay_and_the_rest_is_retired_with_a_reason() -> None:
    line = chain(10, 20, 30, 40)
    choice = choose(line, digests(line), KeepPolicy(last=2), epoch=1)
    assert kept_steps(choice) == [30, 40]
    assert [(one.manifest.step, one.reason) for one in choice.retired] == [
        (20, "the policy asks for others"),
        (10, "the policy asks for others"),
    ]
    assert choice.retained[0].reasons == ("the newest verified", "one of the last 2")


def test_a_milestone_is_the_first_save_at_or_after_each_multiple() -> None:
    line = chain(30, 60, 90, 120, 150, 180, 210, 240)
    assert kept_steps(choose(line, digests(line), KeepPolicy(last=1, every_steps=100), epoch=1)) == [120, 210, 240]


def test_milestones_stay_the_same_when_collected_again_and_again() -> None:
    policy = KeepPolicy(last=1, every_steps=100)
    line = chain(*range(30, 600, 30))
    once = [one.manifest for one in choose(line, digests(line), policy, epoch=1).retained]
    assert kept(choose(once, digests(once), policy, epoch=1)) == kept(choose(line, digests(line), policy, epoch=1))


@pytest.mark.parametrize(("mode", "step"), [("min", 20), ("max", 10)])
def test_the_best_by_a_metric_of_the_state_stays(mode: Any, step: int) -> None:
    figures = {10: 0.9, 20: 0.1, 30: 0.5, 40: 0.4}
    line: list[CheckpointManifest] = []
    for at, loss in figures.items():
        line += chain(at, parent=line[-1] if line else None, state={"metrics": {"loss": loss}})
    policy = KeepPolicy(last=1, best=1, metric="metrics.loss", mode=mode)
    assert kept_steps(choose(line, digests(line), policy, epoch=1)) == [step, 40]


def test_the_best_by_figures_from_elsewhere_stays_and_what_is_no_figure_is_not_best() -> None:
    line = chain(10, 20, 30, state={"loss": True})
    policy = KeepPolicy(last=1, best=1, metric="loss")
    metrics = {line[0].digest: float("nan"), line[1].digest: 0.2}
    assert kept_steps(choose(line, digests(line), policy, epoch=1, metrics=metrics)) == [20, 30]
    assert kept_steps(choose(line, digests(line), policy, epoch=1)) == [30]


def test_nothing_goes_while_nothing_is_verified() -> None:
    line = chain(10, 20, 30)
    choice = choose(line, (), KeepPolicy(last=1), epoch=1)
    assert (kept_steps(choice), choice.retired) == ([10, 20, 30], ())


def test_the_only_verified_one_stays_however_old_and_so_does_what_is_newer() -> None:
    line = chain(10, 20, 30, 40, 50)
    choice = choose(line, {line[1].digest}, KeepPolicy(last=1), epoch=1, damaged=digests(line[2:]))
    assert kept_steps(choice) == [20, 30, 40, 50]


def test_damaged_ones_do_not_count_as_the_last() -> None:
    line = chain(10, 20, 30, 40)
    choice = choose(line, {line[3].digest}, KeepPolicy(last=2), epoch=1, damaged={line[2].digest})
    assert kept_steps(choice) == [20, 40]
    assert [(one.manifest.step, one.reason) for one in choice.retired] == [
        (30, "damaged"),
        (10, "the policy asks for others"),
    ]


def test_a_verified_checkpoint_of_a_stale_epoch_does_not_make_the_lineage_safe() -> None:
    line = chain(10, 20)
    stale = chain(30, parent=line[-1])
    own = chain(30, epoch=2, parent=line[0])
    everything = [*line, *stale, *own]
    choice = choose(everything, digests(stale), KeepPolicy(last=1), epoch=2, forks=[fork_of(2, line[0])])
    assert choice.retired == ()


def test_a_stale_epochs_checkpoints_go_and_what_forks_name_stays() -> None:
    first = chain(10, 20, 30)
    second = chain(20, 30, 40, epoch=2, parent=first[0])
    third = chain(50, 60, 70, epoch=3, parent=second[-1])
    forks = [fork_of(2, first[0]), fork_of(3, second[-1])]
    everything = [*first, *second, *third]
    choice = choose(everything, digests(everything), KeepPolicy(last=1), epoch=3, forks=forks)
    assert kept(choice) == [(10, 1), (40, 2), (70, 3)]
    reasons = {(one.manifest.step, one.manifest.epoch): one.reason for one in choice.retired}
    assert reasons[(30, 1)] == reasons[(20, 1)] == "not in the lineage of epoch 3"
    assert reasons[(30, 2)] == "the policy asks for others"


def test_a_newer_epochs_checkpoints_are_not_this_ones_to_judge() -> None:
    line = chain(10, 20)
    newer = chain(30, epoch=2, parent=line[-1])
    assert kept(choose([*line, *newer], digests(line), KeepPolicy(last=1), epoch=1)) == [(20, 1), (30, 2)]


def test_milestones_far_apart_are_still_in_the_lineage_of_a_later_epoch() -> None:
    line = chain(*range(1, 101))
    policy = KeepPolicy(last=1, every_steps=50)
    left = [one.manifest for one in choose(line, digests(line), policy, epoch=1).retained]
    assert {50, 100} <= {one.step for one in left}
    assert len(left) <= 2 + 3  # 50 saves apart, 16 names each: three links
    after = choose(left, digests(left), policy, epoch=2, forks=[fork_of(2, line[-1])])
    assert {50, 100} <= set(kept_steps(after))
    # Without the links the milestone would have been taken for a stale writer's.
    bare = [one for one in left if one.step in (50, 100)]
    assert kept_steps(choose(bare, digests(bare), policy, epoch=2, forks=[fork_of(2, line[-1])])) == [100]


@pytest.mark.parametrize(
    "options",
    [{"last": 0}, {"every_steps": 0}, {"best": -1}, {"best": 1}, {"mode": "least"}, {"best": 1, "metric": ""}],
)
def test_a_policy_that_cannot_be_meant_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(KeepPolicyInvalid):
        KeepPolicy(**options)


@settings(deadline=None)  # on a busy machine an example takes longer than Hypothesis's 200 ms
@given(
    saves=st.integers(1, 60),
    last=st.integers(1, 4),
    every=st.one_of(st.none(), st.integers(1, 40)),
    fork_at=st.integers(0, 59),
    more=st.integers(0, 20),
    broken=st.sets(st.integers(0, 79)),
)
def test_a_choice_keeps_what_an_election_takes_now_and_after_the_next_fork(
    saves: int, last: int, every: int | None, fork_at: int, more: int, broken: set[int]
) -> None:
    first = chain(*range(1, saves + 1))
    begin = first[min(fork_at, saves - 1)]
    second = chain(*range(begin.step + 1, begin.step + 1 + more), epoch=2, parent=begin)
    everything, forks = [*first, *second], [fork_of(2, begin)]
    line = in_line(everything, epoch=2, fork=forks[0])
    whole = [one for at, one in enumerate(everything) if at not in broken]
    damaged = digests(everything) - digests(whole)
    policy = KeepPolicy(last=last, every_steps=every)
    choice = choose(everything, digests(whole), policy, epoch=2, forks=forks, damaged=damaged)
    stays = [one.manifest for one in choice.retained]
    assert len(stays) + len(choice.retired) == len(everything)
    takes = next((one for one in line if one.digest not in damaged), None)
    if takes is None:
        assert choice.retired == ()
        return
    assert takes in stays
    assert digests([one for one in line if one.digest not in damaged][:last]) <= digests(stays)
    # Once the elected one is forked from, what the policy kept of its past is still in the lineage. What stays only
    # because an epoch began there need not be: its own fork record speaks for it.
    asked_for = [one.manifest for one in choice.retained if one.reasons != ("epoch 2 began here",)]
    below = [one for one in asked_for if one in line and line.index(one) >= line.index(takes)]
    assert digests(below) <= digests(in_line(stays, epoch=3, fork=fork_of(3, takes)))
