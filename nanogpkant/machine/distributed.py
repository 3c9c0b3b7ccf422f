"""The processes of one run, seen from one of them: rank, world size and collectives.

All run the same program; only rank 0 writes files and prints. With a single process every method
returns its input.

Small collectives (was a rank interrupted? did one fail?) run between CPUs by gloo, so that no GPU
has to be waited for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from nanogpkant.base.errors import ToldElsewhereError, UserError

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The process group of a run, seen from one rank.

    All methods but ``agreed`` are collective: every rank calls them, in the same order.
    """

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which writes files and prints."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum over ranks, bit-identical on all of them."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def largest(self, *values: float) -> tuple[float, ...]:
        """Elementwise maximum over ranks."""
        if self.size == 1:
            return values
        both = torch.tensor(values, dtype=torch.float64, device="cpu")
        dist.all_reduce(both, dist.ReduceOp.MAX)
        return tuple(both.tolist())

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """An error of one rank becomes an error of all; rank 0 prints it. No collectives inside.

        Raises:
            UserError: on rank 0, the error of the first failed rank.
            ToldElsewhereError: on all other ranks.
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
        """The error for this rank to raise: rank 0 prints it, the others exit quietly."""
        return error if self.is_main else ToldElsewhereError(error.exit_status)

    def main_first(self, do: Callable[[], T]) -> T:
        """Call ``do`` on rank 0, then on all others; each rank returns its own result.

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
        """Call ``do`` on rank 0 and broadcast the result.

        Raises:
            UserError: as ``together`` does.
        """
        result: Any = None
        with self.together():
            if self.is_main:
                result = do()
        return self.gather(result)[0]


ALONE = World()
