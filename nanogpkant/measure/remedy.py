"""The smallest change that makes a run fit: other passes, then sharding, then more GPUs."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

GPUS_OF_A_NODE = 8  # more GPUs than this take more nodes
MOST_GPUS = 1024
FLAGS = {
    "batch_size": "--train.batch_size",
    "passes": "--train.grad_accum_steps",
    "parallel": "--train.parallel",
    "gpus": "--gpus",
    "nodes": "--nodes",
}


@dataclass(frozen=True)
class Setup:
    """How a step is split into passes and over GPUs."""

    batch_size: int
    """sequences in one pass, of all GPUs together"""
    passes: int
    """``train.grad_accum_steps``"""
    gpus: int
    """of a node"""
    nodes: int
    parallel: str

    @property
    def world(self) -> int:
        return self.gpus * self.nodes

    @property
    def sequences(self) -> int:
        """Sequences in one pass, on the GPU that gets the most."""
        return math.ceil(self.batch_size / self.world)

    @property
    def shards(self) -> int:
        """GPUs that the model is sharded over."""
        return self.world if self.parallel == "fsdp" else 1

    def flags(self, other: "Setup") -> str:
        """The flags that turn the other setup into this one."""
        changed = {n: getattr(self, n) for n in FLAGS if getattr(self, n) != getattr(other, n)}
        return " ".join(f"{FLAGS[name]} {value}" for name, value in changed.items())


def remedy(setup: Setup, fits: Callable[[Setup], bool], most_gpus: int = MOST_GPUS) -> Setup | None:
    """The first change that fits; none changes the sequences of a step."""
    return next(filter(fits, _changes(setup, most_gpus)), None)


def _changes(setup: Setup, most_gpus: int) -> Iterator[Setup]:
    total = setup.batch_size * setup.passes
    while setup.world <= most_gpus:
        # Smaller passes of the same step, then larger ones, which help where gradients of a sharded
        # model stay whole between passes.
        sizes = [size for size in range(setup.world, total + 1) if total % size == 0]
        sizes.sort(key=lambda s: (s > setup.batch_size, abs(s - setup.batch_size)))
        for parallel in dict.fromkeys((setup.parallel, "fsdp" if setup.world > 1 else "ddp")):
            for size in sizes:
                yield replace(setup, parallel=parallel, batch_size=size, passes=total // size)
        more = "gpus" if setup.gpus < GPUS_OF_A_NODE else "nodes"
        setup = replace(setup, **{more: 2 * getattr(setup, more)})
