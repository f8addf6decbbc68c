"""Training or evaluation in several processes: each draws its share, the first writes, and one loss spans all batches.

`torchrun` starts them; the overlays `multi_gpu_train.yaml` and `multi_gpu_evaluate.yaml` name what is here. Nothing
changes for a process that is alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler

from ragsam.errors import InputError
from ragsam.networks.segmenter import Segmenter
from ragsam.training.losses import Target
from ragsam.training.prompted_training import Answered

Item = TypeVar("Item")


def join_processes() -> None:
    """Join the other processes that `torchrun` started; from now on only the first one reports progress.

    Raises:
        InputError: not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise InputError("multi_gpu: not started by torchrun; leave the overlay out, or start it with torchrun")
    backend = "gloo"
    if torch.cuda.is_available():
        backend = "nccl"
        torch.cuda.set_device(own_device())
    if not dist.is_initialized():
        dist.init_process_group(backend)
    if dist.get_rank() > 0:
        logging.getLogger("ragsam").setLevel(logging.WARNING)


def part_processes() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Return the GPU of this process, or the CPU without one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"]))


def process_count() -> int:
    """Return how many processes there are."""
    return idist.get_world_size()


def own_share(items: Sequence[Item], *, whole: bool = False) -> list[Item]:
    """Return this process's equal share of items that are the same in every process; with `whole`, all of them.

    With fewer items than processes the first item is in several shares: a process without any would keep the others
    waiting.
    """
    if whole:
        return list(items)
    share = items[idist.get_rank() :: idist.get_world_size()]
    return list(share or items[:1])


def distributed(network: Segmenter) -> DistributedDataParallel:
    """Return the network for training in several processes, which average their gradients.

    Raises:
        InputError: a network that learns to answer prompts.
    """
    if network.prompt_head is not None:
        raise InputError("prompts: not trained in several processes; set it to null, or train in one")
    return DistributedDataParallel(network, find_unused_parameters=True)


class OwnDraws(Sampler[int]):
    """This process's share of the indices that the first process draws for all: an equal part of every joint batch.

    Args:
        drawn: draws the indices of an epoch for all processes, equally many for each.
    """

    def __init__(self, drawn: Sampler[int]) -> None:
        self.drawn = drawn

    def __len__(self) -> int:
        return len(self.drawn) // idist.get_world_size()

    def __iter__(self) -> Iterator[int]:
        rank = idist.get_rank()
        processes = idist.get_world_size()
        shared = [None]
        if rank == 0:
            shared = [list(self.drawn)]
        if processes > 1:
            dist.broadcast_object_list(shared, src=0, device=idist.device())
        yield from shared[0][rank::processes]


class GatheredLoss(nn.Module):
    """The loss of the batches of all processes together, so that a Dice over the batch is that of a single process.

    The loss is the same in every process; the average of the processes' gradients is its gradient.

    Args:
        loss: takes the network's output and a `Target`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: Tensor | Answered, target: Target) -> Tensor:
        """Return the loss, a scalar."""
        if idist.get_world_size() == 1:
            return self.loss(prediction, target)
        label = idist.all_gather(target.label)
        annotated = idist.all_gather(target.annotated.long()).bool()
        if isinstance(prediction, Answered):  # with supports; prompts are not trained in several processes
            gathered = Answered(_gathered(prediction.logits), plain=_gathered(prediction.plain))
        else:
            gathered = _gathered(prediction)
        return self.loss(gathered, Target(label, annotated))


def _gathered(logits: Tensor) -> Tensor:
    """Return the logits [B, ...] of all processes, one after the other, with their gradients."""
    return torch.cat(all_gather(logits.contiguous()))
