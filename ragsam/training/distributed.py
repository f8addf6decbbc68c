"""Several processes at one training or evaluation: who draws, who writes, and one loss over the batches of all.

`torchrun` starts them; the overlays `multi_gpu_train.yaml` and `multi_gpu_evaluate.yaml` name what is here. Nothing is
different in a process that is alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

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
    """Meet the other processes that `torchrun` started; from now on the first one alone tells how far it is.

    Raises:
        InputError: not started by `torchrun`.
    """
    if "LOCAL_RANK" not in os.environ:
        raise InputError("multi_gpu: not started by torchrun; leave the overlay out, or start it with torchrun")
    if torch.cuda.is_available():
        torch.cuda.set_device(own_device())
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    if dist.get_rank() > 0:
        logging.getLogger("ragsam").setLevel(logging.WARNING)


def part_processes() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Return the GPU of this process, or the CPU where there is none."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if torch.cuda.is_available() else torch.device("cpu")


def process_count() -> int:
    """Return how many processes there are."""
    return idist.get_world_size()


def own_share(items: Sequence[Item], *, whole: bool = False) -> list[Item]:
    """Return every n-th item for the n-th process, so that each has about as many.

    Where there are fewer items than processes the first one is had more than once: a process without any would keep the
    others waiting.

    Args:
        items: the same in every process.
        whole: share nothing out: every process has all items.
    """
    if whole:
        return list(items)
    return list(items[idist.get_rank() :: idist.get_world_size()]) or list(items[:1])


def distributed(network: Segmenter) -> DistributedDataParallel:
    """Return the network as it trains in several processes: gradients are averaged.

    Raises:
        InputError: a network that learns to answer prompts.
    """
    if network.prompt_head is not None:
        raise InputError("prompts: not trained in several processes; set it to null, or train in one")
    return DistributedDataParallel(network, find_unused_parameters=True)


class OwnDraws(Sampler[int]):
    """This process's part of what the first one draws for all: of every batch over all processes an equal part.

    Args:
        drawn: gives the indices of an epoch for all processes, as many for each.
    """

    def __init__(self, drawn: Sampler[int]) -> None:
        self.drawn = drawn

    def __len__(self) -> int:
        return len(self.drawn) // idist.get_world_size()

    def __iter__(self) -> Iterator[int]:
        indices: list[Any] = [list(self.drawn) if idist.get_rank() == 0 else None]
        if idist.get_world_size() > 1:
            dist.broadcast_object_list(indices, src=0, device=idist.device() if idist.backend() == "nccl" else None)
        yield from indices[0][idist.get_rank() :: idist.get_world_size()]


class GatheredLoss(nn.Module):
    """A loss of the batches of all processes as one, so that a Dice over the batch is what one process would have.

    Every process has the same loss, and the average of their gradients is its gradient.

    Args:
        loss: of what a network gives and `Target`.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, prediction: Tensor | Answered, target: Target) -> Tensor:
        """Return the loss, a scalar."""
        if idist.get_world_size() > 1:
            prediction = _gathered(prediction)
            target = Target(idist.all_gather(target.label), idist.all_gather(target.annotated.long()).bool())
        return self.loss(prediction, target)


def _gathered(prediction: Any) -> Any:
    """Return logits [B, ...] of all processes, one after the other; of several kinds of logits each."""
    if isinstance(prediction, Answered):
        parts = prediction._asdict()
        return Answered(**{name: _gathered(part) if isinstance(part, Tensor) else part for name, part in parts.items()})
    return torch.cat(all_gather(prediction.contiguous()))
