"""The processes of one run: which of them this is, and what they have to agree on.

``torchrun`` starts the processes and tells each its rank. All of them run
the same program; rank 0 alone writes files and speaks. One process alone is a world of its own, in
which every function here gives back what it is given.

Small agreements (has anyone been interrupted? did anyone fail?) travel between the CPUs by gloo,
so that no GPU has to be waited for; gradients travel by NCCL where the model is on GPUs.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nanogpkant.base.errors import ToldElsewhereError, UsageError, UserError
from nanogpkant.config import TrainConfig, refuse
from nanogpkant.kan.pruned import PrunedLinear
from nanogpkant.machine.device import resolve_device

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """All processes of a run, seen from one of them.

    Its methods, ``agreed`` aside, end when all ranks have called them: in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of every rank's tensor, on all ranks the very same."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: Tensor) -> Tensor:
        """The mean of every rank's tensor."""
        return self.sum(value) / self.size if self.size > 1 else value

    def largest(self, *values: float) -> tuple[float, ...]:
        """The largest of every rank's first value, of every rank's second, and so on."""
        if self.size == 1:
            return values
        both = torch.tensor(values, dtype=torch.float64, device="cpu")
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return tuple(both.tolist())

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank refuses inside, all refuse, and rank 0 says it. No collectives inside.

        Raises:
            UserError: on rank 0, the error of the first rank that had one.
            ToldElsewhereError: at the same time on all the others.
        """
        failed: UserError | OSError | None = None
        try:
            yield
        except (UserError, OSError) as error:
            failed = error
        if self.size == 1:
            if failed:
                raise failed
            return
        told = failed and (type(failed), str(failed))
        for rank, found in enumerate(self.gather(told)):
            if found:
                kind, text = found
                kind = kind if issubclass(kind, UserError) else UserError
                raise self.agreed(kind(f"rank {rank}: {text}" if rank else text)) from failed

    def agreed(self, error: UserError) -> UserError:
        """An error that all ranks raise: for rank 0 to say, and for the others to end quietly."""
        return error if self.is_main else ToldElsewhereError(error.exit_status)

    def main_first(self, do: Callable[[], T]) -> T:
        """Do something on rank 0 and then, when it is done, on all others; each has its own result.

        Raises:
            UserError: as ``together`` does.
        """
        result: Any = None
        with self.together():
            if self.is_main:
                result = do()
        with self.together():
            return result if self.is_main else do()

    def from_main(self, do: Callable[[], T]) -> T:
        """Do something on rank 0 alone; all ranks get its result.

        Raises:
            UserError: as ``together`` does.
        """
        with self.together():
            result = do() if self.is_main else None
        return self.gather(result)[0]


ALONE = World()


@contextmanager
def start_world(options: TrainConfig) -> Iterator[World]:
    """Join the other processes of the run, for the while.

    Raises:
        UserError: the others cannot be reached, or one of them was lost; within
            ``train.timeout`` seconds.
        UsageError: a number of processes, or a launcher's setting, that cannot work.
    """
    size, rank = _from_environment("WORLD_SIZE", 1), _from_environment("RANK", 0)
    if size == 1:
        yield ALONE
        return
    check_launch(options, size)
    has_gpu = resolve_device(options.device).type == "cuda"
    timeout = timedelta(seconds=options.timeout)
    with _naming_losses(rank, options.timeout):
        _end_group()  # of an earlier run in this program, which failed
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        store = _own_store(rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        yield World(rank, size)
    _end_group()


def _own_store(rank: int, size: int, timeout: timedelta) -> dist.Store:
    """A part of the launcher's store that the processes of this very start have to themselves.

    torchrun's outlives a restart, with the addresses of processes that are gone; torch 2.13 has new
    ones call those now and then. Restarts are not counted alike on all hosts, so the processes find
    each other: each says hello by a name of its own, rank 0 calls out a room with the names that it
    has heard, again whenever it hears a new one, and opens it when all have come.

    Raises:
        RuntimeError: the others did not come in time.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    own, deadline = uuid.uuid4().hex, time.monotonic() + timeout.total_seconds()
    store.set(f"hello/{rank}", own)
    heard, room = [], ""
    while time.monotonic() < deadline:
        if rank == 0:
            names = [store.get(f"hello/{other}").decode() for other in range(size)]
            if names != heard:
                heard, room = names, uuid.uuid4().hex
                store.set("room", " ".join([room, *names]))
            if store.check([f"{room}/{other}" for other in range(1, size)]):
                store.set(f"{room}/open", "")
                return dist.PrefixStore(room, store)
        else:
            room, *names = store.get("room").decode().split()
            if own in names:
                store.set(f"{room}/{rank}", "")
                if store.check([f"{room}/open"]):
                    return dist.PrefixStore(room, store)
        time.sleep(0.02)
    raise RuntimeError("timed out: not all processes came to the store, for gloo to begin")


def _end_group() -> None:
    """End the group, when nothing that is bound to it is alive: a model wrapped for ddp that goes
    after its group can hang. An error holds such things, so a run that fails leaves its group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def check_launch(options: TrainConfig, size: int) -> None:
    """Refuse what cannot work in several processes.

    Raises:
        UsageError: says what, and what would.
    """
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            remedy = "start several processes with torchrun"
            raise UsageError(f"WORLD_SIZE is {size}, but {name} is not set: {remedy}")
    if size > options.batch_size:
        remedy = f"has fewer sequences than there are processes, {size}; start fewer, or raise it"
        refuse("train.batch_size", options.batch_size, remedy)


def own_device(device: torch.device, world: World) -> torch.device:
    """The device of this process: on a machine with several GPUs each has one of its own.

    Raises:
        UsageError: fewer GPUs than processes, or a device that they cannot share out.
    """
    if world.size == 1 or device.type == "cpu":
        return device
    if device.type != "cuda" or device.index is not None:
        remedy = "several processes run on cpu or cuda, which gives each the next GPU"
        refuse("train.device", device, remedy)
    own, present = _from_environment("LOCAL_RANK", 0), torch.cuda.device_count()
    if own >= present:
        raise UsageError(f"more processes here than GPUs, {present}: lower --nproc_per_node")
    device = torch.device("cuda", own)
    torch.cuda.set_device(device)
    return device


def parallelize(model: nn.Module, parallel: str, world: World, device: torch.device) -> nn.Module:
    """What a training step calls in place of the model, so that all ranks share one gradient.

    ddp: every rank holds the whole model. Gradients are averaged bucket by bucket, in the order in
    which the backward pass makes them and while it goes on; they live in the buckets themselves,
    which saves a copy.

    fsdp: every rank holds a part of every tensor, and of its moments. A block's weights are put
    together just before they are needed, while the block before it computes. Only parts come to
    the device, a block at a time: the whole model need not fit there.

    Args:
        model: still on the CPU, or on the device.

    Raises:
        UsageError: a pruned model, whose missing edges only ddp keeps.
    """
    if world.size == 1:
        return model.to(device)
    if parallel == "ddp":
        return DistributedDataParallel(model.to(device), gradient_as_bucket_view=True)
    if any(isinstance(module, PrunedLinear) for module in model.modules()):
        refuse("train.parallel", parallel, "does not keep pruned edges away; use ddp")
    from torch.distributed.fsdp import fully_shard  # half a second, for those alone who need it

    mesh = dist.init_device_mesh(device.type, (world.size,))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def gradient_sync(model: nn.Module, wanted: bool) -> AbstractContextManager:
    """Whether the ranks exchange the gradients of what is inside; else they add up where they are.

    Args:
        model: the result of ``parallelize``.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(wanted)
    elif isinstance(model, DistributedDataParallel) and not wanted:
        return model.no_sync()
    return nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of every weight: torch's DTensors."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(value: Tensor) -> Tensor:
    """A tensor that may lie in shards, such as the norm of a gradient that does, as one of all."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UsageError(f"the environment variable {name} is {value}: must be a whole number")
    return int(value)


@contextmanager
def _naming_losses(rank: int, timeout: float) -> Iterator[None]:
    """Say in one line that a process was lost, whichever library noticed.

    Raises:
        UserError: it was.
    """
    try:
        yield
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        if not (isinstance(error, dist.DistError) or "gloo" in reason):
            raise
        late = "timed out" in reason.lower() or "timeout" in reason.lower()
        what = f"did not answer for {timeout:g} s (--train.timeout)" if late else "is gone"
        remedy = "see what it said; --resume continues from the last checkpoint"
        raise UserError(f"rank {rank}: another process of this run {what}: {remedy}") from error
