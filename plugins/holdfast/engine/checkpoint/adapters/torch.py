"""PyTorch: module, optimizer, scheduler and every random generator, as safetensors and JSON. No pickle.

All of them are needed: leaving out any one changes the result of a resume. What decides the order of the samples is
the trainer's own: derive it from (seed, epoch, index) and keep the position in ``extra``. A loader that draws from
the global generator when it is iterated must be iterated *before* `load_state`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from holdfast.engine.checkpoint.adapters.torch_generators import (
    other_states,
    set_other_states,
    set_torch_states,
    torch_states,
)
from holdfast.engine.checkpoint.adapters.torch_tensors import (
    TorchCopier,
    blob_of,
    copy_into,
    is_part,
    live_tensor,
    tensors_of,
)
from holdfast.engine.checkpoint.errors import CheckpointError, not_of_this_adapter
from holdfast.engine.checkpoint.live import LiveState, LiveTensor, grouped
from holdfast.engine.checkpoint.restore import take
from holdfast.engine.checkpoint.state import TrainingState, state_json

GENERATORS_BLOB, REST_BLOB = "generators.safetensors", "rest.json"


class TorchAdapter:
    """Everything the next step of a training loop depends on.

    Args:
        module: a ``torch.nn.Module``.
        optimizer: a ``torch.optim.Optimizer`` over its parameters.
        scheduler: anything with ``state_dict`` and ``load_state_dict`` whose state is JSON.
        scaler: a ``torch.amp.GradScaler``.
        generators: further ``torch.Generator`` objects, e.g. a sampler's.
        extra: gives the trainer's own JSON state, e.g. the data position; `load_state` hands it to ``load_extra``.
    """

    def __init__(
        self,
        module: Any,
        optimizer: Any,
        *,
        scheduler: Any = None,
        scaler: Any = None,
        generators: Mapping[str, Any] | None = None,
        extra: Callable[[], Any] | None = None,
        load_extra: Callable[[Any], None] | None = None,
    ) -> None:
        self._module = module
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._scaler = scaler
        self.copier = TorchCopier()
        self._generators = dict(generators or {})
        self._extra = extra
        self._load_extra = load_extra

    def live(self) -> LiveState:
        """The tensors where they are, in groups: weights that train, weights that do not, statistics, moments."""
        trained, frozen, statistics = self._model_tensors()
        moments, optimizer_rest = _split(self._optimizer.state_dict())
        groups = [
            *grouped("model", trained, model=True),
            *grouped("model-frozen", frozen, model=True),
            *grouped("model-statistics", statistics, model=True),
            *grouped("optimizer", moments, model=False),
        ]
        rest = {
            "optimizer": optimizer_rest,
            **other_states(),
            "scheduler": self._scheduler.state_dict() if self._scheduler is not None else None,
            "scaler": self._scaler.state_dict() if self._scaler is not None else None,
            "extra": self._extra() if self._extra is not None else None,
        }
        blobs = {GENERATORS_BLOB: blob_of(torch_states(self._generators)), REST_BLOB: state_json(rest, "TorchAdapter")}
        return LiveState(tuple(groups), TrainingState(blobs, {}, (), fingerprint()))

    def state(self) -> TrainingState:
        """A copy of everything; training may go on at once."""
        live = self.live()
        blobs = {
            group.name: blob_of({tensor.spec.name: tensor.source for tensor in group.tensors}) for group in live.groups
        }
        model = tuple(group.name for group in live.groups if group.model)
        return TrainingState({**blobs, **live.rest.blobs}, {}, model, live.rest.fingerprint)

    def before_update(self, hook: Callable[[], None]) -> bool:
        """Have ``hook`` called at the begin of every ``optimizer.step``."""
        self._optimizer.register_step_pre_hook(lambda *_: hook())
        return True

    def load_state(self, state: TrainingState) -> None:
        """Continue exactly there. The generators are set last: building the rest may draw from them.

        Raises:
            CheckpointUnreadable: another adapter's checkpoint; a blob is no tensors, or names others than the module
                and optimizer have.
            CheckpointError: it has a scheduler's or scaler's state and this adapter none to give it to, or the reverse.
        """
        blobs = state.blobs
        rest = rest_of(blobs)
        refuse_other_parts(rest, "TorchAdapter.load_state", scheduler=self._scheduler, scaler=self._scaler)
        copy_into(self._module.state_dict(keep_vars=True), blobs, "model")
        optimizer = {
            name: tensor
            for blob in sorted(blobs)
            if is_part(blob, "optimizer")
            for name, tensor in tensors_of(take(blobs, blob), where=blob).items()
        }
        self._optimizer.load_state_dict(
            _join(optimizer, rest["optimizer"], self._optimizer.state_dict()["param_groups"])
        )
        if self._scheduler is not None:
            self._scheduler.load_state_dict(rest["scheduler"])
        if self._scaler is not None:
            self._scaler.load_state_dict(rest["scaler"])
        if self._load_extra is not None:
            self._load_extra(rest["extra"])
        set_torch_states(tensors_of(take(blobs, GENERATORS_BLOB), where=GENERATORS_BLOB), self._generators)
        set_other_states(rest)

    def _model_tensors(self) -> tuple[list[LiveTensor], list[LiveTensor], list[LiveTensor]]:
        """Trained, frozen, and statistics (buffers, which a forward pass may change)."""
        torch = _import("torch")
        trained: list[LiveTensor] = []
        frozen: list[LiveTensor] = []
        statistics: list[LiveTensor] = []
        for name, tensor in self._module.state_dict(keep_vars=True).items():
            if not isinstance(tensor, torch.Tensor):
                raise CheckpointError(
                    "a part of the module's state is no tensor",
                    where=f"TorchAdapter: {name}",
                    expected="parameters and buffers",
                    found=type(tensor).__name__,
                    fix="Keep what get_extra_state gives in `extra`, as JSON",
                )
            if not isinstance(tensor, torch.nn.Parameter):
                statistics.append(live_tensor(name, tensor, volatile=True))
            else:
                (trained if tensor.requires_grad else frozen).append(live_tensor(name, tensor))
        return trained, frozen, statistics


def fingerprint() -> dict[str, str]:
    """What of PyTorch the numbers depend on."""
    torch = _import("torch")
    return {
        "torch": torch.__version__,
        "torch_threads": str(torch.get_num_threads()),
        "torch_cpu": torch.backends.cpu.get_cpu_capability(),
        "torch_cuda": str(torch.version.cuda),
        "torch_device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch_deterministic": str(torch.are_deterministic_algorithms_enabled()),
        "torch_matmul": torch.get_float32_matmul_precision(),
    }


def rest_of(blobs: Mapping[str, bytes]) -> dict[str, Any]:
    """The JSON rest of this adapter's checkpoint. Raises CheckpointUnreadable: it is another's."""
    found = f"the blobs {', '.join(sorted(blobs)) or '(none)'}"
    if REST_BLOB in blobs and GENERATORS_BLOB in blobs:
        try:
            rest = json.loads(blobs[REST_BLOB])
        except ValueError as error:
            found = f"{REST_BLOB} is no JSON: {error}"
        else:
            if isinstance(rest, dict) and rest.keys() >= {"optimizer", "scheduler", "scaler", "extra"}:
                return rest
            found = f"{REST_BLOB} of another form"
    expected = f"the blobs {GENERATORS_BLOB} and {REST_BLOB}, with optimizer, scheduler, scaler and extra"
    raise not_of_this_adapter("TorchAdapter.load_state", expected, found)


def refuse_other_parts(rest: Mapping[str, Any], where: str, **parts: Any) -> None:
    """Raises CheckpointError: a part was saved that is not here, or is here and was not saved."""
    for name, part in parts.items():
        if (part is None) is not (rest[name] is None):
            here, there = (f"a {name}", f"no {name}") if part is not None else (f"no {name}", f"a {name}")
            raise CheckpointError(
                f"the checkpoint has {there}'s state and this adapter {here}",
                where=where,
                expected=here,
                found=there,
                fix=f"Give the adapter the {name} the run began with"
                if part is None
                else f"Leave the {name} out, or begin a run of another name",
            )


def _import(name: str) -> Any:
    # By name: the type checker then says the same with and without PyTorch installed.
    return importlib.import_module(name)


def _split(state: Mapping[str, Any]) -> tuple[list[LiveTensor], dict[str, Any]]:
    """An optimizer's state as tensors named ``<parameter>.<name>`` and the JSON rest."""
    torch = _import("torch")
    tensors: list[LiveTensor] = []
    rest: dict[str, dict[str, Any]] = {}
    for parameter, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors.append(live_tensor(f"{parameter}.{name}", value))
            else:
                rest.setdefault(str(parameter), {})[name] = value
    return tensors, {"state": rest, "param_groups": state["param_groups"]}


def _join(tensors: Mapping[str, Any], rest: Mapping[str, Any], like: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(key): dict(values) for key, values in rest["state"].items()}
    for key, tensor in tensors.items():
        parameter, _, name = key.partition(".")
        state.setdefault(int(parameter), {})[name] = tensor
    groups = [
        {name: tuple(value) if isinstance(now.get(name), tuple) else value for name, value in group.items()}
        for group, now in zip(rest["param_groups"], like, strict=True)
    ]
    return {"state": state, "param_groups": groups}
