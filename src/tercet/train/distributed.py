"""Several processes as one: started by torchrun, gloo on CPU and nccl on GPU.

Every process encodes its own rows; representations are gathered with gradient, so that all
processes' passages are negatives for every query, and gradients are summed once a step. A loss that
is a sum over the queries of all processes then has the gradients of one process with the whole
batch. Knows nothing of models or losses. Shapes: R processes.
"""

import os
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tercet.errors import InputError

BUCKET = 1 << 24  # values summed in one call: 64 MB in float32


class World:
    """The processes of a run; one alone needs no torchrun and talks to nobody."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.rank, self.size = 0, 1
        if dist.is_initialized():
            self.rank, self.size = dist.get_rank(), dist.get_world_size()

    @staticmethod
    def start(device: str | None = None) -> "World":
        """Joins the processes that torchrun started, or stands alone.

        Raises InputError where a GPU is asked for and not there.
        """
        if device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
            raise InputError(f"device is cpu or cuda, got {device!r}")
        on_gpu = torch.cuda.is_available() if device is None else device.startswith("cuda")
        if on_gpu and not torch.cuda.is_available():
            raise InputError(f"device {device!r} is not there: torch sees no GPU")
        where = torch.device("cpu")
        if on_gpu:
            named = torch.device(device or "cuda").index or 0
            where = torch.device("cuda", int(os.environ.get("LOCAL_RANK", named)))
            torch.cuda.set_device(where)
        if "RANK" in os.environ and "WORLD_SIZE" in os.environ and not dist.is_initialized():
            # the first process tokenises, mines and evaluates alone, and the others wait for it
            dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(days=7))
        return World(where)

    def stop(self) -> None:
        """Leaves the others; call it at the end of a run."""
        if dist.is_initialized():
            dist.destroy_process_group()

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process is here."""
        if self.size > 1:
            dist.barrier()

    def share(self, value: Any) -> Any:
        """What the first process gives, on every process; a small object."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def all(self, value: Any) -> list[Any]:
        """What every process gives, in their order; small objects."""
        if self.size == 1:
            return [value]
        out: list[Any] = [None] * self.size
        dist.all_gather_object(out, value)
        return out

    def gather(self, mine: Tensor) -> Tensor:
        """Rows of all processes, one after the other, (n, ...) -> (sum n, ...); has a gradient."""
        if self.size == 1:
            return mine
        counts = self.all(len(mine))
        out: Tensor = _Gather.apply(mine, self.rank, counts)  # type: ignore[no-untyped-call]
        return out

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds up the gradients of all processes, in large pieces; all hold the same afterwards.

        A parameter that some process did not use counts there as zero; one that none has used has
        no gradient, as on one device, so that a batch may leave a head out.
        """
        if self.size == 1:
            return
        trained = list(parameters)
        used = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        dist.all_reduce(used)
        bucket: list[Tensor] = []
        size = 0
        for parameter, count in zip(trained, used.tolist(), strict=True):
            if not count:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            bucket.append(parameter.grad)
            size += parameter.numel()
            if size >= BUCKET:
                _sum(bucket)
                bucket, size = [], 0
        if bucket:
            _sum(bucket)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, without gradient."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total


def _sum(gradients: list[Tensor]) -> None:
    if len(gradients) == 1:
        dist.all_reduce(gradients[0])
        return
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


class _Gather(torch.autograd.Function):
    """All rows forward; backward, the sum over processes of the gradients of one's own rows."""

    @staticmethod
    def forward(ctx: Any, mine: Tensor, rank: int, counts: list[int]) -> Tensor:
        ctx.rank, ctx.counts = rank, counts
        most = max(counts)
        padded = mine.new_zeros(most, *mine.shape[1:])
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return torch.split(total, ctx.counts)[ctx.rank], None, None
