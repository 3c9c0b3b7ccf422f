"""Several processes that train one model: how they meet, and DDP or FSDP around the model.

``torchrun`` starts the processes and sets the rank of each. Gradients travel by NCCL where the
model is on GPUs. With a single process every function here returns its input.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore, Store
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from nanogpkant.base.errors import UsageError, UserError, one_line, refuse
from nanogpkant.config import TrainConfig
from nanogpkant.kan.pruned import PrunedLinear
from nanogpkant.machine.device import resolve_device
from nanogpkant.machine.distributed import ALONE, World


@contextmanager
def start_world(options: TrainConfig) -> Iterator[World]:
    """Join the process group for the duration of the context.

    Raises:
        UserError: other ranks cannot be reached, or one was lost, within ``train.timeout`` seconds.
        UsageError: a number of processes or an environment variable that cannot work.
    """
    size, rank = _from_environment("WORLD_SIZE", 1), _from_environment("RANK", 0)
    if size == 1:
        yield ALONE
        return
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            remedy = "start several processes with torchrun"
            raise UsageError(f"WORLD_SIZE is {size}, but {name} is not set: {remedy}")
    if size > options.batch_size:
        remedy = f"has fewer sequences than there are processes, {size}; start fewer, or raise it"
        refuse("train.batch_size", options.batch_size, remedy)
    has_gpu = resolve_device(options.device).type == "cuda"
    timeout = timedelta(seconds=options.timeout)
    with _naming_losses(rank, options.timeout):
        _end_group()  # of an earlier run in this program, which failed
        backend = "cpu:gloo,cuda:nccl" if has_gpu else "gloo"
        store = _own_store(rank, size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
        yield World(rank, size)
    _end_group()


def _own_store(rank: int, size: int, timeout: timedelta) -> Store:
    """The launcher's store under a key prefix that only the processes of this start share.

    torchrun's store survives a restart and keeps the addresses of dead processes, which new ones
    sometimes connect to (torch 2.13). Hosts count restarts differently, so the processes agree on a
    prefix: each publishes a fresh id; rank 0 publishes a key prefix and the ids seen so far, anew
    for every new id, and opens the prefix when all ranks have joined it.
    """
    store, _, _ = next(rendezvous("env://", timeout=timeout))
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
                return PrefixStore(room, store)
        else:
            room, *names = store.get("room").decode().split()
            if own in names:
                store.set(f"{room}/{rank}", "")
                if store.check([f"{room}/open"]):
                    return PrefixStore(room, store)
        time.sleep(0.02)
    raise RuntimeError("timed out: not all processes came to the store, for gloo to begin")


def _end_group() -> None:
    """Destroy the process group. Free the DDP model before, else this can hang; a traceback keeps
    the model alive, so a failed run leaves its group to the next one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device(device: torch.device, world: World) -> torch.device:
    """The device of this process: one GPU each, by local rank.

    Raises:
        UsageError: fewer GPUs than processes, or a device that several processes cannot use.
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
    """Wrap the model with DDP or FSDP2; a training step calls the result in place of the model.

    ddp: every rank holds the whole model. Gradients are averaged bucket by bucket during the
    backward pass, and stored in the buckets, which saves a copy.

    fsdp: every rank holds a shard of every tensor and of its moments. A block's weights are
    gathered while the block before it computes, so the whole model need not fit on the device.

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

    mesh = init_device_mesh(device.type, (world.size,))
    for block in model.get_submodule("blocks").children():
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def gradient_sync(model: Any, wanted: bool) -> AbstractContextManager:
    """Whether the backward pass inside averages gradients over ranks or accumulates them locally.

    Args:
        model: the result of ``parallelize``.
    """
    if is_sharded(model):
        model.set_requires_gradient_sync(wanted)
    elif isinstance(model, DistributedDataParallel) and not wanted:
        return model.no_sync()
    return nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Whether the weights are sharded (DTensors)."""
    return any(hasattr(parameter, "full_tensor") for parameter in model.parameters())


def whole(value: Any) -> Tensor:
    """The full tensor of a DTensor, such as the norm of sharded gradients; others as they are."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _from_environment(name: str, default: int) -> int:
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise UsageError(f"the environment variable {name} is {value}: must be a whole number")
    return int(value)


@contextmanager
def _naming_losses(rank: int, timeout: float) -> Iterator[None]:
    """Turn the error of a lost process, from whichever library, into one line."""
    try:
        yield
    except RuntimeError as error:
        reason = one_line(error)
        if not (isinstance(error, dist.DistError) or "gloo" in reason):
            raise
        late = "timed out" in reason.lower() or "timeout" in reason.lower()
        what = f"did not answer for {timeout:g} s (--train.timeout)" if late else "is gone"
        remedy = "see what it said; --resume continues from the last checkpoint"
        raise UserError(f"rank {rank}: another process of this run {what}: {remedy}") from error
