"""What the benchmark of training runs in processes of their own: one contender, its saves, its restores.

Every worker prints one line ``result={…}``, then its peak memory. One thread: two of OpenMP's beside a writer on two
cores would measure the scheduler.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from holdfast.engine.checkpoint import Checkpointer, SaveMode, elect, load_state
from holdfast.engine.checkpoint.adapters.torch import TorchAdapter
from holdfast.engine.objectstore import local_store
from holdfast.engine.objectstore._decorator import StoreDecorator

WIDTH = 1024
RUN = "bench"


class Training:
    """Square layers and AdamW: three tensors of fp32 per weight."""

    def __init__(self, layers: int, *, frozen: int = 0) -> None:
        torch.manual_seed(1)
        self.module = torch.nn.Sequential(*[torch.nn.Linear(WIDTH, WIDTH) for _ in range(layers)])
        for layer in list(self.module)[:frozen]:
            layer.requires_grad_(False)
        trained = [one for one in self.module.parameters() if one.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4)
        self.inputs = torch.randn(64, WIDTH)
        self.adapter = TorchAdapter(self.module, self.optimizer)

    def forward_and_backward(self) -> float:
        began = time.perf_counter()
        self.optimizer.zero_grad()
        self.module(self.inputs).square().mean().backward()
        return time.perf_counter() - began

    def step(self) -> float:
        began = time.perf_counter()
        self.forward_and_backward()
        self.optimizer.step()
        return time.perf_counter() - began

    def state(self) -> dict[str, Any]:
        return {"module": self.module.state_dict(), "optimizer": self.optimizer.state_dict()}

    @property
    def state_bytes(self) -> int:
        return sum(tensor.spec.size_bytes for group in self.adapter.live().groups for tensor in group.tensors)


def memcpy_seconds(size_bytes: int, rounds: int = 9) -> float:
    """One copy of so much memory into warm memory, by one thread: the median."""
    source = torch.ones(size_bytes // 4)
    target = torch.zeros_like(source)
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        target.copy_(source)
        took.append(time.perf_counter() - began)
    return statistics.median(took)


# -- contenders: each gives save(number) → stall seconds, and wait() until that save is whole on the disk -------------


def torch_save(training: Training, folder: Path) -> tuple[Callable[[int], float], Callable[[], None]]:
    def save(number: int) -> float:
        began = time.perf_counter()
        with (folder / f"{number}.pt").open("wb") as file:
            torch.save(training.state(), file)
            file.flush()
            os.fsync(file.fileno())
        return time.perf_counter() - began

    return save, lambda: None


def dcp_blocking(training: Training, folder: Path) -> tuple[Callable[[int], float], Callable[[], None]]:
    def save(number: int) -> float:
        began = time.perf_counter()
        dcp.save(training.state(), checkpoint_id=folder / str(number), no_dist=True)
        return time.perf_counter() - began

    return save, lambda: None


def dcp_async(training: Training, folder: Path, **how: Any) -> tuple[Callable[[int], float], Callable[[], None]]:
    dist.init_process_group("cpu:gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    under_way: list[Any] = []

    def save(number: int) -> float:
        began = time.perf_counter()
        under_way.append(dcp.async_save(training.state(), checkpoint_id=folder / str(number), **how))
        return time.perf_counter() - began

    def wait() -> None:
        answer = under_way.pop()
        getattr(answer, "upload_completion", answer).result()

    return save, wait


def dcp_process(training: Training, folder: Path) -> tuple[Callable[[int], float], Callable[[], None]]:
    """Its fastest here: staged into shared memory, written by another process."""
    from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    options = StagingOptions(
        use_pinned_memory=False, use_shared_memory=True, use_async_staging=False, use_non_blocking_copy=False
    )
    return dcp_async(
        training, folder, async_checkpointer_type=AsyncCheckpointerType.PROCESS, async_stager=DefaultStager(options)
    )


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


RIVALS = {
    "torch.save + fsync": torch_save,
    "DCP save": dcp_blocking,
    "DCP async_save": dcp_async,
    "DCP async_save, process": dcp_process,
}


def stall(contender: str, folder: str, layers: int, saves: int) -> dict[str, Any]:
    """Case a: how long training stands still per save; every save is whole on the disk before the next."""
    training = Training(layers)
    steps = [training.step() for _ in range(4)]
    own = contender in list(SaveMode)
    run = _ours if own else _theirs
    stalls, cpu = run(training, contender, Path(folder), saves)
    return {
        "state_bytes": training.state_bytes,
        "memcpy": memcpy_seconds(training.state_bytes),
        "step": statistics.median(steps[1:]),
        "first": stalls[0],
        "stalls": stalls[1:],
        "cpu": cpu[1:],
    }


def _theirs(training: Training, contender: str, folder: Path, saves: int) -> tuple[list[float], list[float]]:
    save, wait = RIVALS[contender](training, folder)
    stalls, cpu = [], []
    for number in range(saves + 1):
        training.step()
        began = _cpu_seconds()
        stalls.append(save(number))
        wait()
        cpu.append(_cpu_seconds() - began)
        _forget(folder, keep=number)
    return stalls, cpu


def _ours(training: Training, mode: str, folder: Path, saves: int) -> tuple[list[float], list[float]]:
    checkpointer = Checkpointer(
        local_store("bench", folder), RUN, epoch=1, site="bench", every_steps=2, mode=mode, fingerprint={}
    )
    stalls, cpu = [], []
    with checkpointer:
        for step in range(1, 2 * (saves + 1) + 1):
            training.step()
            if step % 2:
                checkpointer.step(step, training.adapter)  # the first of these makes the buffers
                continue
            checkpointer.before_update()
            before, began, spent = _cpu_seconds(), time.perf_counter(), 0.0
            checkpointer.step(step, training.adapter)
            stood_still = time.perf_counter() - began
            if mode == SaveMode.OVERLAP:
                # What optimizer.step does first; the forward and backward pass before it goes on meanwhile.
                spent = training.forward_and_backward()
                began = time.perf_counter()
                checkpointer.before_update()
                stood_still += time.perf_counter() - began
            _wait_durable(checkpointer, step)
            stalls.append(stood_still)
            cpu.append(_cpu_seconds() - before - spent)
    return stalls, cpu


def _wait_durable(checkpointer: Checkpointer, step: int) -> None:
    deadline = time.monotonic() + 120
    while (checkpointer.status()["checkpoint"] or {"step": 0})["step"] < step:
        if time.monotonic() > deadline:
            raise SystemExit(f"step {step} is not durable: {checkpointer.status()['saving']}")
        time.sleep(0.002)


def whole_run(contender: str, folder: str, layers: int, steps: int, every_seconds: float) -> dict[str, Any]:
    """Case b: the same steps without a save, and with one every so many seconds."""
    training, place = Training(layers), Path(folder)
    for _ in range(3):
        training.step()
    began, cpu, saves = time.perf_counter(), _cpu_seconds(), 0
    if contender == "no save":
        for _ in range(steps):
            training.step()
    elif contender in RIVALS:
        save, wait = RIVALS[contender](training, place)
        last = time.perf_counter()
        for _ in range(steps):
            training.step()
            if time.perf_counter() - last >= every_seconds:
                save(saves)
                wait()
                last, saves = time.perf_counter(), saves + 1
                _forget(place, keep=saves - 1)
    else:
        checkpointer = Checkpointer(
            local_store("bench", place),
            RUN,
            epoch=1,
            site="bench",
            every_seconds=every_seconds,
            mode=contender,
            fingerprint={},
        )
        with checkpointer:
            for step in range(1, steps + 1):
                training.step()
                saves += checkpointer.step(step, training.adapter)
            checkpointer.before_update()
            wall, used = time.perf_counter() - began, _cpu_seconds() - cpu
        return {"wall": wall, "cpu": used, "saves": saves}
    return {"wall": time.perf_counter() - began, "cpu": _cpu_seconds() - cpu, "saves": saves}


def prepare_restore(folder: str, layers: int) -> dict[str, Any]:
    """Case c, once: the same state as each contender writes it."""
    training, place = Training(layers), Path(folder)
    training.step()
    torch_save(training, place)[0](0)
    dcp_blocking(training, place)[0](1)
    with Checkpointer(local_store("bench", place), RUN, epoch=1, site="bench", every_steps=1, fingerprint={}) as it:
        it.step(1, training.adapter)
        it.finish(training.adapter)
    return {"state_bytes": training.state_bytes, "digest": _digest(training)}


def restore(contender: str, folder: str, layers: int, digest: str) -> dict[str, Any]:
    """Case c: from an empty process with the model built until its state is what was saved."""
    training, place = Training(layers), Path(folder)
    if contender == "DCP load":
        training.step()  # it loads into tensors that are there
    began, cpu = time.perf_counter(), _cpu_seconds()
    if contender == "holdfast, verified":
        store = local_store("bench", place)
        checkpointer = Checkpointer(store, RUN, epoch=1, site="bench", every_steps=1, fingerprint={})
        resumed = checkpointer.resume(training.adapter)
        assert resumed is not None
    elif contender == "DCP load":
        state = training.state()
        dcp.load(state, checkpoint_id=place / "1", no_dist=True)
        training.module.load_state_dict(state["module"])
        training.optimizer.load_state_dict(state["optimizer"])
    else:
        state = torch.load(place / "0.pt", weights_only=True, mmap=contender.endswith("mmap"))
        training.module.load_state_dict(state["module"])
        training.optimizer.load_state_dict(state["optimizer"])
    took, used = time.perf_counter() - began, _cpu_seconds() - cpu
    if _digest(training) != digest:
        raise SystemExit(f"{contender} restored another state")
    return {"wall": took, "cpu": used}


class CountingStore(StoreDecorator):
    """Counts the bytes that are put."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.put_bytes = 0

    def put(self, key: str, data: Any, **how: Any) -> Any:
        whole = data if isinstance(data, bytes | bytearray | memoryview) else b"".join(data)
        self.put_bytes += memoryview(whole).nbytes
        return super().put(key, whole, **how)


def frozen(folder: str, layers: int, saves: int) -> dict[str, Any]:
    """Case d: nine layers of ten do not train; bytes written for so many saves, and by ``torch.save``."""
    training, place = Training(layers, frozen=layers * 9 // 10), Path(folder)
    store = CountingStore(local_store("bench", place))
    full = 0
    with Checkpointer(store, RUN, epoch=1, site="bench", every_steps=1, fingerprint={}) as it:
        for step in range(1, saves + 1):
            training.step()
            it.step(step, training.adapter)
            _wait_durable(it, step)
            torch.save(training.state(), place / "full.pt")
            full += (place / "full.pt").stat().st_size
    final = elect(store, RUN, epoch=1)
    assert final.manifest is not None
    fresh = Training(layers, frozen=layers * 9 // 10)
    fresh.adapter.load_state(load_state(store, final.manifest))
    if _digest(fresh) != _digest(training):
        raise SystemExit("the deduplicated checkpoint restores another state")
    return {"written": store.put_bytes, "full": full}


def _digest(training: Training) -> str:
    import hashlib

    whole = hashlib.sha256()
    for group in training.adapter.live().groups:
        for tensor in group.tensors:
            whole.update(tensor.spec.name.encode())
            whole.update(tensor.source.detach().contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _cpu_seconds() -> float:
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _forget(folder: Path, *, keep: int) -> None:
    """A disk that fills would be measured too."""
    import shutil

    for found in folder.iterdir():
        if found.stem != str(keep) and found.stem.isdigit():
            shutil.rmtree(found) if found.is_dir() else found.unlink()


CASES = {"stall": stall, "whole_run": whole_run, "prepare": prepare_restore, "restore": restore, "frozen": frozen}


def main() -> None:
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    case, arguments = sys.argv[1], json.loads(sys.argv[2])
    answer = CASES[case](*arguments)
    answer["peak_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("result=" + json.dumps(answer), flush=True)
    os._exit(0)  # a process pool of DCP's would be waited for


if __name__ == "__main__":
    main()
