"""Several processes that train one model, by PyTorch's own DistributedDataParallel, started by its ``torchrun``.

    torchrun --nproc-per-node 2 -m agehelpers train --profile gpu

Each process computes its share of every batch: `batch_size` is that of all together, every picture is seen once an
epoch, gradients and metrics are those of the whole batch. The first process alone writes. Alone, all of this is idle.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from agehelpers.devices import world
from agehelpers.methods.model import AgeEstimationModel

Result = TypeVar("Result")
_norm = nn.functional.batch_norm
WAIT = timedelta(hours=12)  # while the first one decodes pictures, or waits for another training


@contextmanager
def processes() -> Iterator[None]:
    """The block is one of the processes that torchrun started, each on its own GPU where there are any; else alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        vars(nn.functional)["batch_norm"] = norm_of_all  # in this process, which does nothing but train
    distributed.init_process_group("nccl" if cuda else "gloo", timeout=WAIT)
    try:
        if distributed.get_rank() == 0:
            yield
        else:
            os.environ["TQDM_DISABLE"] = "1"
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                yield
    finally:
        vars(nn.functional)["batch_norm"] = _norm
        distributed.destroy_process_group()


class _Outputs(nn.Module):
    """What the wrapped model's training step calls."""

    def __init__(self, model: AgeEstimationModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.model.outputs(images)


def shared(model: AgeEstimationModel) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """`model.outputs`, whose gradients are averaged over the processes; batch statistics are those of all, too."""
    if world()[1] == 1:
        return model.outputs
    wrapped: nn.Module = _Outputs(model)
    if next(model.parameters()).is_cuda:
        wrapped = nn.SyncBatchNorm.convert_sync_batchnorm(wrapped)
    return DistributedDataParallel(wrapped)


class _SumOfAll(torch.autograd.Function):
    """A tensor's sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, *own: Tensor) -> Tensor:
        distributed.all_reduce(total := own[0].clone())
        return total

    backward = forward


def norm_of_all(given: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
                bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:
    """`F.batch_norm` by the statistics of all processes' shares; torch's own SyncBatchNorm does that on GPUs only."""
    if not training:
        return _norm(given, running_mean, running_var, weight, bias, training, momentum, eps)
    wide, over = (1, -1, *[1] * (given.ndim - 2)), [dim for dim in range(given.ndim) if dim != 1]
    values = given.float()
    count = _SumOfAll.apply(torch.tensor(values.numel() / values.shape[1]))
    mean = _SumOfAll.apply(values.sum(over)) / count
    centred = values - mean.view(wide)
    variance = _SumOfAll.apply(centred.square().sum(over)) / count
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(variance.detach() * count / (count - 1), momentum)
    scaled = centred * (variance + eps).rsqrt().view(wide)
    return (scaled if weight is None or bias is None else scaled * weight.view(wide) + bias.view(wide)).to(given.dtype)


def equalise(*models: nn.Module | None) -> None:
    """Give every process the first one's weights and statistics: nothing of rounding or of chance may part them."""
    for model in (one for one in models if one is not None and world()[1] > 1):
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)


def gathered(own: list[Tensor]) -> list[Tensor]:
    """All batches in order, on the CPU, of which each of several processes has computed every `world`-th."""
    parts: list[list[Tensor]] = [[] for _ in range(world()[1])]
    distributed.all_gather_object(parts, [one.cpu() for one in own])
    return [parts[number % len(parts)][number // len(parts)] for number in range(sum(map(len, parts)))]


def agreed(value: Result) -> Result:
    """The first process's value, in every process."""
    if world()[1] == 1:
        return value
    told = [value]
    distributed.broadcast_object_list(told, 0)
    return told[0]


def first_alone(work: Callable[[], Result]) -> Result:
    """`work` in the first process, then in all others: what it leaves in a cache they find there."""
    result = work() if world()[0] == 0 else None
    agreed(None)
    return work() if result is None else result
