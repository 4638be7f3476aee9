"""What one rank of the distributed tests does: a small FSDP2 training run over a folder as its bucket.

`python sharded_worker.py` is a server: it imports PyTorch once and forks the ranks of each run it is asked for, each a
process of its own. A line of JSON in, a line of JSON out.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import random
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch._dynamo  # FSDP imports it at its first use, seconds in each process
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from engine.checkpoint.worlds import Guard, OrderedFaults, wait_for
from holdfast.engine.checkpoint import Permission
from holdfast.engine.checkpoint.adapters.torch_sharded import ShardedTorchAdapter
from holdfast.engine.checkpoint.format import digest_of
from holdfast.engine.checkpoint.order import DataOrder, Position
from holdfast.engine.checkpoint.sharded import Ranks, ShardedCheckpointer
from holdfast.engine.objectstore import local_store
from holdfast.engine.objectstore.errors import PermissionRefused, StoreUnavailable
from holdfast.errors import HoldfastError

SAMPLES, BATCH, SEED = 96, 24, 7


class Run:
    """A model whose sizes no world divides evenly, AdamW, a schedule, and a position in shuffled data."""

    def __init__(self, kind: str, rank: int, world: int) -> None:
        torch.manual_seed(SEED)
        layers: list[torch.nn.Module] = [torch.nn.Linear(7, 9), torch.nn.Tanh()]
        if kind == "noisy":  # every source of randomness, and statistics that differ between the ranks
            layers += [torch.nn.BatchNorm1d(9), torch.nn.Dropout(0.2)]
        layers += [torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)]
        self.module = torch.nn.Sequential(*layers)
        self.module.append(torch.nn.Linear(1, 1).requires_grad_(False))
        self.module.append(torch.nn.Linear(3, 2))  # trains by name, and never gets a gradient
        used = [*self.module][:-1]
        self.module.forward = lambda value: functools.reduce(lambda so_far, layer: layer(so_far), used, value)  # type: ignore[method-assign]
        self.kind, self.rank, self.world = kind, rank, world
        if dist.is_initialized():
            self._distribute(world)
        trained = [one for one in self.module.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(
            [{"params": trained[:2], "lr": 3e-2}, {"params": trained[2:]}], lr=1e-2, betas=(0.8, 0.99)
        )
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.9)
        for generator in (torch.manual_seed, random.seed, np.random.seed):
            generator(100 + rank)
        self.own = torch.Generator().manual_seed(200 + rank)
        data = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, 7, generator=data)
        self.targets = self.inputs.sum(1, keepdim=True).sin()
        self.order = DataOrder(SAMPLES, SEED)
        self.position = Position()
        self.adapter = ShardedTorchAdapter(
            self.module,
            self.optimizer,
            seed=SEED,
            scheduler=self.scheduler,
            generators={"own": self.own},
            extra=lambda: self.order.state(self.position),
            load_extra=self._go_to,
        )

    def _distribute(self, world: int) -> None:
        if self.kind == "replicated":  # by hand, with nobody who sees that the replicas stay equal
            for one in self.module.parameters():
                if one.requires_grad:
                    one.register_hook(functools.partial(_mean, world))
            return
        if self.kind == "ddp":
            self.module = DistributedDataParallel(self.module, find_unused_parameters=True)  # type: ignore[assignment]
            return
        mesh = init_device_mesh("cpu", (world,))
        for layer in list(self.module.children()):
            if isinstance(layer, torch.nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(self.module, mesh=mesh)

    def _go_to(self, state: Any) -> None:
        self.position = self.order.position(state)

    def step(self) -> float:
        batch = next(self.order.batches(BATCH, self.position, rank=self.rank, world=self.world))
        inputs = self.inputs[batch.samples]
        if self.kind == "noisy":
            inputs = inputs + float(np.random.normal(0, 0.1)) + random.gauss(0, 0.1)
            inputs = inputs + 0.1 * torch.randn(inputs.shape, generator=self.own)
        loss = ((self.module(inputs) - self.targets[batch.samples]) ** 2).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.scheduler.step()
        self.position = batch.next
        value = loss.detach()
        if dist.is_initialized():
            dist.all_reduce(value)
        return float(value) / self.world

    def digests(self) -> dict[str, str]:
        """Of the whole tensors, put together by PyTorch itself."""
        options = StateDictOptions(full_state_dict=True)
        found = {}
        for name, tensor in get_model_state_dict(self.module, options=options).items():
            found[f"model.{name}"] = _digest(tensor)
        for parameter, values in get_optimizer_state_dict(self.module, self.optimizer, options=options)[
            "state"
        ].items():
            for name, value in values.items():
                found[f"optimizer.{parameter}.{name}"] = _digest(value)
        return found

    def statistics(self) -> dict[str, str]:
        """Of this rank's buffers."""
        return {name: _digest(one) for name, one in self.module.named_buffers()}

    def draws(self) -> list[float]:
        """What the generators give next."""
        return [
            float(torch.rand(1)),
            random.random(),
            float(np.random.random()),
            float(torch.rand(1, generator=self.own)),
        ]


def _mean(world: int, gradient: torch.Tensor) -> torch.Tensor:
    gradient = gradient.clone()
    dist.all_reduce(gradient)
    return gradient / world


def _digest(tensor: torch.Tensor) -> str:
    return digest_of(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def work(plan: dict[str, Any], rank: int, world: int, result: dict[str, Any]) -> None:
    run = Run(plan.get("kind", "plain"), rank, world)
    store, guard = OrderedFaults(local_store("site-a", Path(plan["store"]))), Guard()
    standby = plan.get("standby")
    checkpointer = ShardedCheckpointer(
        store,
        "run",
        epoch=plan.get("epoch", 1),
        site=plan.get("site", "site-a"),
        ranks=Ranks.join(timeout_seconds=plan.get("timeout_seconds", 30)),
        every_steps=plan.get("every", 3),
        mode=plan.get("mode", "blocking"),
        guard=guard,
        retry_seconds=0.01,
        replicas={"site-b": local_store("site-b", Path(standby))} if standby else None,
        heartbeat=Path(plan["store"]) / f"heartbeat-{rank}.json",
    )
    with _without_pickle():
        resumed = checkpointer.resume(run.adapter)
    result["resumed"] = None
    begin = 1
    if resumed is not None:
        begin = resumed.step + 1
        result["resumed"] = {
            "step": resumed.step,
            "resume": resumed.resume,
            "passed_over": [one.reason for one in resumed.passed_over],
        }
        result["loaded"], result["statistics"] = run.digests(), run.statistics()
        if plan.get("draw"):
            result["draws"] = run.draws()
    result["losses"] = losses = []
    with checkpointer:
        for step in range(begin, plan["steps"] + 1):
            fault = _fault(plan, step, rank)
            if fault is not None:
                _before(fault, store, guard, run, Path(plan["store"]))
            losses.append(run.step())
            if plan.get("digests_at") == step:
                result["at"] = run.digests()
            if fault is not None and fault["kind"] == "late":
                wait_for(lambda: _state_of_the_leader(plan) == "failed")
            result["reached"] = step
            checkpointer.step(step, run.adapter, loss=losses[-1])
            result["step"] = step
            if rank == 0 and plan.get("open_gate_after") == step:
                (Path(plan["store"]) / "gate").touch()
        if plan.get("finish", True):
            finished = checkpointer.finish(run.adapter)
            result["finished"] = {"step": finished.manifest.step, "replicated": finished.replicated}
    result["state"], result["statistics"] = run.digests(), run.statistics()
    result["draws"] = run.draws()


def _state_of_the_leader(plan: dict[str, Any]) -> str:
    return str(json.loads((Path(plan["store"]) / "heartbeat-0.json").read_text())["state"])


@contextlib.contextmanager
def _without_pickle() -> Iterator[None]:
    """Whatever unpickles in here fails, also what peers would send each other."""

    def refuse(*_arguments: Any, **_settings: Any) -> Any:
        raise AssertionError("something was unpickled")

    with contextlib.ExitStack() as patched:
        for where, name in (
            (pickle, "load"),
            (pickle, "loads"),
            (pickle, "Unpickler"),
            (torch, "load"),
            (dist.distributed_c10d, "_unpickler"),
        ):
            patched.enter_context(mock.patch.object(where, name, refuse))
        yield


def _fault(plan: dict[str, Any], step: int, rank: int) -> dict[str, Any] | None:
    fault = plan.get("fault")
    here = fault is not None and fault["step"] == step and fault.get("rank", rank) == rank
    return fault if here else None


def _before(fault: dict[str, Any], store: OrderedFaults, guard: Guard, run: Run, folder: Path) -> None:
    kind = fault["kind"]
    if kind == "kill":
        store.before_put = lambda _key: os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "refuse":
        store.before_put = _refuse
    elif kind == "outage":
        store.before_put = _Outage(fault["puts"], then_stop=fault.get("then_stop", False))
    elif kind == "gate":
        store.before_put = lambda _key: wait_for((folder / "gate").exists)
    elif kind == "stop":
        os.kill(os.getpid(), signal.SIGTERM)
    elif kind in ("fenced", "held"):
        guard.value = Permission(kind)
    elif kind == "diverge":
        run.scheduler.base_lrs[0] += 1.0
    elif kind == "unequal":
        with torch.no_grad():
            next(iter(run.module.parameters())).add_(1)
    elif kind == "breaks":
        run.adapter.shards = lambda: 1 / 0  # type: ignore[method-assign,assignment]
    else:
        assert kind == "late"


def _refuse(key: str) -> None:
    raise PermissionRefused("the credentials are not allowed to write", where=key)


class _Outage:
    """The store does not take the first so many writes."""

    def __init__(self, puts: int, *, then_stop: bool) -> None:
        self.left, self.then_stop = puts, then_stop

    def __call__(self, _key: str) -> None:
        if self.left:
            self.left -= 1
            if self.then_stop:
                self.then_stop = False
                os.kill(os.getpid(), signal.SIGTERM)
            raise StoreUnavailable("the store is away", where="site-a")


def rank_main(plan: dict[str, Any], rank: int, world: int, folder: Path) -> None:
    torch.set_num_threads(1)
    result: dict[str, Any] = {}
    began = time.monotonic()
    try:
        if world > 1 or plan.get("distributed"):
            dist.init_process_group(
                "gloo",
                init_method=f"file://{folder / 'rendezvous'}",
                rank=rank,
                world_size=world,
                timeout=timedelta(seconds=30),
            )
        work(plan, rank, world, result)
    except HoldfastError as error:
        result["error"] = {**error.as_dict(), "exit_code": error.exit_code}
    except Exception as error:
        result["error"] = {"error": type(error).__name__, "what": str(error)}
        traceback.print_exc()
    result["seconds"] = time.monotonic() - began
    (folder / f"{rank}.json").write_text(json.dumps(result))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def launch(request: dict[str, Any]) -> list[dict[str, Any] | None]:
    """Fork the ranks and wait; None for one that left no result. What does not end in time is killed and says so."""
    folder, world = Path(request["folder"]), request["world"]
    pids = []
    for rank in range(world):
        pid = os.fork()
        if pid == 0:
            log = os.open(folder / f"{rank}.log", os.O_CREAT | os.O_WRONLY)
            os.dup2(log, 1)
            os.dup2(log, 2)
            rank_main(request["plan"], rank, world, folder)
        pids.append(pid)
    deadline = time.monotonic() + request["seconds"]
    waiting = set(pids)
    while waiting and time.monotonic() < deadline:
        waiting -= {pid for pid in waiting if os.waitpid(pid, os.WNOHANG)[0]}
        time.sleep(0.01)
    for pid in waiting:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    results: list[dict[str, Any] | None] = []
    for rank, pid in enumerate(pids):
        path = folder / f"{rank}.json"
        result = json.loads(path.read_text()) if path.exists() else None
        results.append({"hung": True} if pid in waiting else result)
    return results


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(launch(json.loads(line))), flush=True)
    os._exit(0)  # taking PyTorch down in order takes seconds
