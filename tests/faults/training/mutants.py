"""Ways to be wrong, kept so that the suite is seen to fail: a part of the state forgotten, a rule broken.

The parts are forgotten when a state is loaded: what a resumed process has of them is what a fresh one has, which is
what it would have had they never been saved.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

Forget = Callable[[Any], Callable[[], None]]


# -- parts of the state ------------------------------------------------------------------------------------------------


def _position(loop: Any) -> Callable[[], None]:
    fresh = loop.position
    return lambda: setattr(loop, "position", fresh)


def _plain_rng(loop: Any) -> Callable[[], None]:
    fresh = loop.rng.bit_generator.state
    return lambda: setattr(loop.rng.bit_generator, "state", fresh)


def _plain_moments(loop: Any) -> Callable[[], None]:
    return lambda: setattr(loop, "moments", [np.zeros(6), np.zeros(6)])


def _plain_weights(loop: Any) -> Callable[[], None]:
    return lambda: setattr(loop, "weights", np.zeros(6))


def _torch_rng(loop: Any) -> Callable[[], None]:
    fresh = loop.torch.get_rng_state()
    return lambda: loop.torch.set_rng_state(fresh)


def _own_generator(loop: Any) -> Callable[[], None]:
    fresh = loop.augmenting.get_state()
    return lambda: loop.augmenting.set_state(fresh)


def _python_rng(_loop: Any) -> Callable[[], None]:
    fresh = random.getstate()
    return lambda: random.setstate(fresh)


def _numpy_rng(_loop: Any) -> Callable[[], None]:
    fresh = np.random.get_state()
    return lambda: np.random.set_state(fresh)


def _optimizer(loop: Any) -> Callable[[], None]:
    return lambda: loop.optimizer.state.clear()


def _scheduler(loop: Any) -> Callable[[], None]:
    fresh = dict(loop.scheduler.state_dict())
    return lambda: loop.scheduler.load_state_dict(fresh)


def _scaler(loop: Any) -> Callable[[], None]:
    fresh = loop.scaler.state_dict()
    return lambda: loop.scaler.load_state_dict(fresh)


def _statistics(loop: Any) -> Callable[[], None]:
    norms = [one for one in loop.module if hasattr(one, "reset_running_stats")]
    return lambda: [one.reset_running_stats() for one in norms] and None  # type: ignore[func-returns-value]


def _weights(loop: Any) -> Callable[[], None]:
    fresh = {name: value.clone() for name, value in loop.module.state_dict().items()}
    return lambda: loop.module.load_state_dict(fresh)


def _sklearn_rng(loop: Any) -> Callable[[], None]:
    estimator = loop.adapter.estimators["model"]
    fresh = estimator.random_state.get_state()
    return lambda: estimator.random_state.set_state(fresh)


def _sklearn_moments(loop: Any) -> Callable[[], None]:
    def forget() -> None:
        optimizer = loop.adapter.estimators["model"]._optimizer
        optimizer.ms, optimizer.vs = [one * 0 for one in optimizer.ms], [one * 0 for one in optimizer.vs]

    return forget


def _sklearn_scaler(loop: Any) -> Callable[[], None]:
    return lambda: loop.adapter.estimators["scaler"]._reset()


def _counted_by_the_process(loop: Any) -> Callable[[], None]:
    """The number of a step is how many this process did: the position, and with it the seed of a round, is lost."""
    step, done = loop.step, iter(range(1, 10_000))
    loop.step = lambda _number: step(next(done))
    return lambda: None


def _tree_model(loop: Any) -> Callable[[], None]:
    def forget() -> None:
        loop.adapter._raw = loop.adapter._text = None

    return forget


#: Adapter → part → which flavour has it, and how it is forgotten.
PARTS: Mapping[str, Mapping[str, tuple[int, Forget]]] = {
    "plain": {
        "weights": (0, _plain_weights),
        "moments": (0, _plain_moments),
        "rng": (0, _plain_rng),
        "position": (0, _position),
    },
    "sklearn": {
        "rng": (0, _sklearn_rng),
        "position": (0, _counted_by_the_process),
        "scaler": (1, _sklearn_scaler),
        "moments": (2, _sklearn_moments),
    },
    "xgboost": {"model": (0, _tree_model), "seed of the round": (0, _counted_by_the_process)},
    "lightgbm": {"model": (0, _tree_model), "seed of the round": (0, _counted_by_the_process)},
    "torch": {
        "weights": (0, _weights),
        "torch rng": (0, _torch_rng),
        "own generator": (0, _own_generator),
        "python rng": (0, _python_rng),
        "numpy rng": (0, _numpy_rng),
        "optimizer": (0, _optimizer),
        "position": (0, _position),
        "scheduler": (0, _scheduler),
        "scaler": (0, _scaler),
        "statistics": (0, _statistics),
    },
}


def remember(loop: Any, adapter: str, forgotten: str | None) -> Any:
    """The loop, whose adapter forgets a part at each resume; ``None``: nothing."""
    if forgotten is not None:
        load, forget = loop.adapter.load_state, PARTS[adapter][forgotten][1](loop)

        def load_most(state: Any) -> None:
            load(state)
            forget()

        loop.adapter.load_state = load_most
    return loop


# -- rules of the protocol ---------------------------------------------------------------------------------------------

_ROOM = "holdfast.engine.checkpoint"


def _module(name: str) -> Any:
    """By its full name: the package gives functions of the same names."""
    __import__(f"{_ROOM}.{name}")
    return sys.modules[f"{_ROOM}.{name}"]


_LATER: list[tuple[Any, ...]] = []


def _later(*blob: Any) -> None:
    _LATER.append(blob)


def _manifest_first(store: Any, manifest: Any, *, guard: Any) -> Any:
    commit = _module("commit")
    done = commit.commit_manifest(store, manifest, guard=guard)
    while _LATER:
        commit.ensure_blob(*_LATER.pop(0))
    return done


def _any_epoch(store: Any, run: str, *, epoch: int, fork: Any, passed: Any) -> Iterator[Any]:
    keys = sorted((info.key for info in store.list(_module("format").manifest_prefix(run))), reverse=True)
    yield from _module("elect")._readable(store, run, keys, passed)


def _sound(*_: Any, **__: Any) -> None:
    """Nothing is wrong, unread."""


def _unhashed(store: Any, run: str, reference: Any, space: Any) -> None:
    data = store.get(_module("format").blob_key(run, reference.digest))[: len(space)]
    space[: len(data)] = data


def _give_up(store: Any, run: str, **options: Any) -> Any:
    elect = _module("elect")
    found = elect.elect(store, run, **options)
    damaged = [one for one in found.passed_over if "bytes instead" in one.reason or "another digest" in one.reason]
    return elect.Election(run, options["epoch"], None, None, 0, "from the start") if damaged else found


#: Rule → (module, name, what stands there instead), for each place.
RULES: Mapping[str, tuple[tuple[str, str, Any], ...]] = {
    "the manifest is written last": (
        ("storing", "ensure_blob", _later),
        ("writer", "commit_manifest", _manifest_first),
    ),
    "only the lineage of the epoch counts": (("elect", "lineage", _any_epoch),),
    "what is loaded was read and hashed": (
        ("elect", "damage", _sound),
        ("checkpointer", "damage", _sound),
        ("restore", "read_content", _unhashed),
    ),
    "damage leads to an older checkpoint": (("checkpointer", "elect", _give_up),),
    "a replica has its blobs before its manifest": (("replicate", "blob_is_intact", lambda *_: True),),
}


@contextmanager
def protocol(broken: str | None) -> Iterator[None]:
    """Everything in this process goes by the protocol but for one rule; ``None``: all of it."""
    places = RULES[broken] if broken is not None else ()
    patches = []
    for module, name, instead in places:
        holder = _module(module)
        *outer, name = name.split(".")
        for part in outer:
            holder = getattr(holder, part)
        patches.append(patch.object(holder, name, instead))
    for one in patches:
        one.start()
    try:
        yield
    finally:
        for one in patches:
            one.stop()
