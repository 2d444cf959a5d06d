"""Processes that share one piece of work: who takes which part, and how the parts come together again.

Alone, every method returns what it was given, and torch is not even imported. Otherwise torch's process group is to be
initialised, with gloo for tensors on a CPU. What is added up has one non-zero part, or is added in an order that does not depend
on the process: every rank gets the same bits.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from effir.errors import EffirError, PeerLost

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Ranks:
    """This process among those that share the work: its number `rank`, from 0, of `count`; `beside` of them are on this machine.

    Methods that exchange something must be called by all ranks alike. They raise PeerLost if another rank is gone.
    """

    rank: int = 0
    count: int = 1
    beside: int = 1

    def share(self, total: int) -> range:
        """This rank's part of `total` things: contiguous, in the order of ranks, sizes at most one apart.

        >>> [list(Ranks(rank, 2).share(5)) for rank in (0, 1)]
        [[0, 1], [2, 3, 4]]
        """
        return range(self.rank * total // self.count, (self.rank + 1) * total // self.count)

    def gather(self, rows: "torch.Tensor") -> tuple["torch.Tensor", slice]:
        """The rows of all ranks one after another, and where this rank's lie: (n_i, …) → (Σ n_i, …)."""
        if self.count == 1:
            return rows, slice(0, len(rows))
        counts = self._agree([len(rows) if rank == self.rank else 0 for rank in range(self.count)], "SUM")
        own = slice(sum(counts[: self.rank]), sum(counts[: self.rank + 1]))
        whole = rows.new_zeros(sum(counts), *rows.shape[1:])
        whole[own] = rows
        _reduce(whole, "SUM")
        return whole, own

    def add_gradients(self, parameters: Iterable["torch.nn.Parameter"]) -> None:
        """Replace each parameter's gradient by its sum over all ranks."""
        if self.count == 1:
            return
        import torch

        found = [(one, torch.zeros_like(one) if one.grad is None else one.grad) for one in parameters]
        flat = torch.cat([gradient.flatten() for _, gradient in found])
        _reduce(flat, "SUM")
        for (parameter, gradient), part in zip(found, flat.split([gradient.numel() for _, gradient in found]), strict=True):
            parameter.grad = part.view_as(gradient).clone()

    def any(self, flag: bool) -> bool:
        """Whether the flag is up on some rank."""
        return bool(self._agree([int(flag)], "MAX")[0])

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        return self._agree([value], "MAX")[0]

    def total(self, value: int) -> int:
        """The sum of the ranks' values."""
        return self._agree([value], "SUM")[0]

    def wait(self) -> None:
        """Return once all ranks are here."""
        self._agree([0], "MAX")

    def check(self, parameters: Iterable["torch.Tensor"], step: int) -> None:
        """Compare steps done and parameters, bit by bit. Raises EffirError, on every rank, where they differ."""
        if self.count == 1:
            return
        import torch

        found = hashlib.sha256(str(step).encode())
        for one in parameters:
            found.update(one.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        lowest = torch.frombuffer(bytearray(found.digest()), dtype=torch.int64).clone()
        highest = lowest.clone()
        _reduce(lowest, "MIN")
        _reduce(highest, "MAX")
        if not torch.equal(lowest, highest):
            raise EffirError(
                f"the {self.count} processes no longer have the same parameters after {step} steps: "
                "are their machines and libraries of one kind? A retry starts from the last checkpoint on which they agreed"
            )

    def seed(self, seed: int, step: int) -> None:
        """Give each rank random numbers of its own for a step, which depend on (seed, step, rank) alone; alone, they run on."""
        if self.count == 1:
            return
        import torch

        torch.manual_seed(int.from_bytes(hashlib.sha256(f"{seed}:{step}:{self.rank}".encode()).digest()[:8], "big") >> 1)

    def _agree(self, values: list[int], operation: Literal["MAX", "SUM"]) -> list[int]:
        if self.count == 1:
            return values
        import torch

        held = torch.tensor(values, dtype=torch.int64)
        _reduce(held, operation)
        return held.tolist()


ALONE = Ranks()


def _reduce(tensor: "torch.Tensor", operation: Literal["MIN", "MAX", "SUM"]) -> None:
    from torch import distributed

    with or_lost():
        distributed.all_reduce(tensor, getattr(distributed.ReduceOp, operation))


@contextmanager
def or_lost() -> Iterator[None]:
    """Within this context torch.distributed's errors, each of which means that another process does not answer, are PeerLost."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise PeerLost("another process of this phase is gone; a retry goes on from the last checkpoint") from error
