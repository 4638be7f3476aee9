"""PyTorch over several ranks: FSDP, DDP or DTensors of one's own, their optimizer, scheduler and generators.

Tensors are named by the module's own names and saved in the pieces the ranks hold, so another number of ranks can put
them together again. What is the same at every rank (hyperparameters, scheduler, position) is JSON. What each rank has
alone are its generators and its buffers: BatchNorm's statistics are not sharded, and differ.

Saved in a world of n ranks and resumed in one of n, every rank gets its own generators and buffers back. In another
world the generators begin anew from (seed, step, rank) and the buffers are rank 0's.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.engine.checkpoint.adapters.torch import fingerprint, refuse_other_parts
from holdfast.engine.checkpoint.adapters.torch_generators import (
    other_states,
    seed_all,
    set_other_states,
    set_torch_states,
    torch_states,
)
from holdfast.engine.checkpoint.adapters.torch_tensors import TorchCopier, blob_of, tensors_of
from holdfast.engine.checkpoint.errors import CheckpointError, CheckpointUnreadable
from holdfast.engine.checkpoint.order import rank_key
from holdfast.engine.checkpoint.sharded.saved import SavedShards
from holdfast.engine.checkpoint.sharded.state import ShardedState
from holdfast.engine.checkpoint.state import state_json

STATISTICS, GENERATORS, OTHER_GENERATORS = "model-statistics.safetensors", "generators.safetensors", "generators.json"


class ShardedTorchAdapter:
    """Everything the next step of a distributed training loop depends on.

    Args:
        module: after ``fully_shard``, ``FullyShardedDataParallel`` or ``DistributedDataParallel``.
        optimizer: made over its parameters after that.
        seed: of the run; what generators begin from in another world.
        scheduler: anything with ``state_dict`` and ``load_state_dict`` whose state is JSON.
        scaler: a ``torch.amp.GradScaler``.
        generators: this rank's further ``torch.Generator`` objects.
        extra: gives the trainer's own JSON state, the same at every rank: a position counts the samples of all.
        load_extra: gets it back.
        rng_rank: whose random numbers this rank draws in another world; None: its own. Ranks that share a replica
            (tensor parallelism) give the same number.
    """

    def __init__(
        self,
        module: Any,
        optimizer: Any,
        *,
        seed: int,
        scheduler: Any = None,
        scaler: Any = None,
        generators: Mapping[str, Any] | None = None,
        extra: Callable[[], Any] | None = None,
        load_extra: Callable[[Any], None] | None = None,
        rng_rank: int | None = None,
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._seed = seed
        self._scheduler = scheduler
        self._scaler = scaler
        self._generators = dict(generators or {})
        self._extra = extra
        self._load_extra = load_extra
        self._rng_rank = rng_rank

    # -- save ---------------------------------------------------------------------------------------------------

    def fingerprint(self) -> Mapping[str, str]:
        """PyTorch's, and how the parameters are laid over the ranks: another mesh adds in another order."""
        distributed = importlib.import_module("torch.distributed")
        layouts = {
            f"{tuple(one.device_mesh.shape)} {one.placements}" for one in self._module.parameters() if _is_dtensor(one)
        }
        backend = distributed.get_backend() if distributed.is_available() and distributed.is_initialized() else "none"
        return {**fingerprint(), "torch_sharding": "; ".join(sorted(layouts)), "torch_backend": backend}

    def shards(self) -> ShardedState:
        """This rank's part, where it lies.

        Raises:
            CheckpointError: a part of the module's state is no tensor, or another part is no JSON.
        """
        model, optimizer, rest = self._parts()
        buffers = self._buffers(model)
        sharded = {f"model.{name}": one for name, one in model.items() if name not in buffers}
        trained = self._trained()
        groups = {f"model.{name}": "model" if name in trained else "model-frozen" for name in model}
        return ShardedState(
            {**sharded, **optimizer},
            {**groups, **dict.fromkeys(optimizer, "optimizer")},
            {
                STATISTICS: blob_of(buffers),
                GENERATORS: blob_of(torch_states(self._generators, every_device=False)),
                OTHER_GENERATORS: state_json(other_states(), OTHER_GENERATORS),
            },
            {
                "optimizer": state_json(rest, "optimizer"),
                "scheduler": state_json(self._scheduler and self._scheduler.state_dict(), "scheduler"),
                "scaler": state_json(self._scaler and self._scaler.state_dict(), "scaler"),
                "extra": state_json(self._extra() if self._extra is not None else None, "extra"),
            },
            self.fingerprint(),
        )

    def replicas(self) -> Mapping[str, Callable[[], str]]:
        """The digests of parameters and moments that are no DTensors: one rank's are saved for all."""
        model, optimizer, _ = self._parts()
        buffers, copier = self._buffers(model), TorchCopier()
        named = {**{f"model.{name}": one for name, one in model.items() if name not in buffers}, **optimizer}
        return {name: functools.partial(copier.digest, one) for name, one in named.items() if _is_plain(one)}

    # -- load ---------------------------------------------------------------------------------------------------

    def load_shards(self, saved: SavedShards, *, rank: int, world: int) -> None:
        """Continue from there; the generators are set last.

        Raises:
            CheckpointUnreadable: the checkpoint is not of this module and optimizer, or a blob is damaged.
            CheckpointError: it has a scheduler's or scaler's state and this adapter none, or the reverse.
        """
        same = saved.world == world
        model, optimizer, _ = self._parts()
        buffers = self._buffers(model)
        rest = saved.rest
        refuse_other_parts(rest, "load_shards", scheduler=self._scheduler, scaler=self._scaler)
        sharded = {f"model.{name}": one for name, one in model.items() if name not in buffers}
        # A parameter that never had a gradient has no moments there; here it got some when its state was asked for.
        with_moments = {name.rpartition(".")[0] for name in saved.layout.tensors if name.startswith("optimizer.")}
        with_moments |= {f"optimizer.{name}" for name in rest["optimizer"]["state"]}
        moments = {name: one for name, one in optimizer.items() if name.rpartition(".")[0] in with_moments}
        saved.load({**sharded, **moments})
        self._load_buffers(buffers, tensors_of(bytearray(saved.own(STATISTICS, rank if same else 0)), where=STATISTICS))
        self._set_states(model, moments, rest["optimizer"])
        for part, name in ((self._scheduler, "scheduler"), (self._scaler, "scaler")):
            if part is not None:
                part.load_state_dict(rest[name])
        if self._load_extra is not None:
            self._load_extra(rest["extra"])
        self._load_generators(saved, rank, same=same)

    def _load_buffers(self, buffers: Mapping[str, Any], there: Mapping[str, Any]) -> None:
        torch = importlib.import_module("torch")
        for name in sorted({*buffers, *there}):
            ours, theirs = _described(buffers.get(name)), _described(there.get(name))
            if ours != theirs:
                raise CheckpointUnreadable(
                    "the checkpoint is not of this model",
                    where=f"{STATISTICS}: {name}",
                    expected=ours,
                    found=theirs,
                    fix="Build the model the checkpoint was made from",
                )
        with torch.no_grad():
            for name, one in buffers.items():
                one.copy_(there[name])

    def _load_generators(self, saved: SavedShards, rank: int, *, same: bool) -> None:
        if same:
            set_torch_states(
                tensors_of(bytearray(saved.own(GENERATORS, rank)), where=GENERATORS),
                self._generators,
                every_device=False,
            )
            set_other_states(json.loads(saved.own(OTHER_GENERATORS, rank)))
            return
        # Ranks that drew the same numbers go on drawing the same.
        drew_alike = saved.world > 1 and saved.alike(GENERATORS)
        whose = self._rng_rank if self._rng_rank is not None else 0 if drew_alike else rank
        seed_all(rank_key(self._seed, saved.manifest.step, whose), self._generators)

    def _set_states(self, model: dict[str, Any], moments: Mapping[str, Any], rest: Mapping[str, Any]) -> None:
        """Through PyTorch's own setters: what was filled in place may have been a copy (FSDP's first version)."""
        words = _import("state_dict")
        words.set_model_state_dict(self._module, model)
        now = words.get_optimizer_state_dict(self._module, self._optimizer)
        names = {name for group in now["param_groups"] for name in group["params"]}
        state: dict[str, dict[str, Any]] = {name: dict(values) for name, values in rest["state"].items()}
        for key, tensor in moments.items():
            name, _, value = key.removeprefix("optimizer.").rpartition(".")
            state.setdefault(name, {})[value] = tensor
        without = names - state.keys()
        filled = {**{name: now["state"][name] for name in without if name in now["state"]}, **state}
        words.set_optimizer_state_dict(
            self._module,
            self._optimizer,
            {"state": filled, "param_groups": _groups(rest["param_groups"], now["param_groups"])},
        )
        for name, parameter in self._parameters().items():
            if name in without:
                self._optimizer.state.pop(parameter, None)

    # -- parts --------------------------------------------------------------------------------------------------

    def _parts(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The module's tensors by name, the optimizer's as ``optimizer.<parameter>.<name>``, its JSON rest."""
        torch, words = importlib.import_module("torch"), _import("state_dict")
        model = words.get_model_state_dict(self._module)
        for name, tensor in model.items():
            if not isinstance(tensor, torch.Tensor):
                raise CheckpointError(
                    "a part of the module's state is no tensor",
                    where=f"ShardedTorchAdapter: {name}",
                    expected="parameters and buffers",
                    found=type(tensor).__name__,
                    fix="Keep what get_extra_state gives in `extra`, as JSON",
                )
        state = words.get_optimizer_state_dict(self._module, self._optimizer)
        tensors: dict[str, Any] = {}
        rest: dict[str, dict[str, Any]] = {}
        for parameter, values in state["state"].items():
            for name, value in values.items():
                if isinstance(value, torch.Tensor):
                    tensors[f"optimizer.{parameter}.{name}"] = value
                else:
                    rest.setdefault(parameter, {})[name] = value
        return model, tensors, {"state": rest, "param_groups": state["param_groups"]}

    def _buffers(self, model: Mapping[str, Any]) -> dict[str, Any]:
        names = {self._name(name) for name, _ in self._module.named_buffers()}
        return {name: one for name, one in model.items() if name in names and _is_plain(one)}

    def _trained(self) -> set[str]:
        return {name for name, one in self._parameters().items() if one.requires_grad}

    def _parameters(self) -> dict[str, Any]:
        return {self._name(name): one for name, one in self._module.named_parameters(remove_duplicate=False)}

    def _name(self, name: str) -> str:
        """Without what wrappers put into it, as PyTorch's distributed state dicts name it."""
        replicated = importlib.import_module("torch.nn.parallel").DistributedDataParallel
        if isinstance(self._module, replicated):
            name = name.removeprefix("module.")
        for part in ("_fsdp_wrapped_module.", "_orig_mod.", "_checkpoint_wrapped_module."):
            name = name.replace(part, "")
        return name


def whole_model(saved: SavedShards) -> dict[str, Any]:
    """The module's ``state_dict``, put together in this process: every rank's pieces, and rank 0's buffers.

    Raises:
        CheckpointUnreadable: a blob is damaged.
    """
    return {**saved.whole("model."), **tensors_of(bytearray(saved.own(STATISTICS, 0)), where=STATISTICS)}


def _groups(saved: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[dict[str, Any]]:
    ours, theirs = ([group["params"] for group in groups] for groups in (now, saved))
    if ours != theirs:
        raise CheckpointUnreadable(
            "the checkpoint is not of this optimizer",
            where="param_groups",
            expected=str(ours)[:300],
            found=str(theirs)[:300],
            fix="Build the optimizer the checkpoint was made from",
        )
    return [
        {name: tuple(value) if isinstance(like.get(name), tuple) else value for name, value in group.items()}
        for group, like in zip(saved, now, strict=True)
    ]


def _described(tensor: Any) -> str:
    return "no such tensor" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _is_dtensor(tensor: Any) -> bool:
    return isinstance(tensor, importlib.import_module("torch.distributed.tensor").DTensor)


def _is_plain(tensor: Any) -> bool:
    sharded = importlib.import_module("torch.distributed._shard.sharded_tensor").ShardedTensor
    return not _is_dtensor(tensor) and not isinstance(tensor, sharded)


def _import(name: str) -> Any:
    # By name: the type checker then says the same with and without PyTorch installed.
    return importlib.import_module(f"torch.distributed.checkpoint.{name}")
