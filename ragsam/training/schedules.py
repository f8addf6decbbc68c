"""Learning-rate schedules."""

from __future__ import annotations

import warnings
from collections.abc import Callable

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, OneCycleLR

from ragsam.errors import InputError


def one_cycle(optimizer: Optimizer, learning_rate: float, steps: int) -> LRScheduler:
    """Return a rise over the first 15 % of the steps, then a fall to nearly 0, both as a cosine."""
    return OneCycleLR(optimizer, max_lr=learning_rate, total_steps=steps + 1, pct_start=0.15)


def warm_polynomial(optimizer: Optimizer, learning_rate: float, steps: int) -> LRScheduler:
    """Return a linear warm-up of 250 steps, or a tenth of all where that is fewer, then a polynomial fall of power 0.9.

    The fall would reach 0 after a quarter more steps than there are: SAMed stops after 160 of 200 epochs. It sets a
    step's rate after that step, so the first two have the same and every other one that of the step before.

    Source: SAMed (Zhang and Liu, arXiv:2304.13785), its published training script.
    """
    warm_up = min(250, max(steps // 10, 1))
    whole = 1.25 * steps

    def factor(step: int) -> float:
        before = max(step - 1, 0)
        if before < warm_up:
            return (before + 1) / warm_up
        return (1 - (before - warm_up) / whole) ** 0.9

    return LambdaLR(optimizer, factor)


def cosine(optimizer: Optimizer, learning_rate: float, steps: int) -> LRScheduler:
    """Return a fall to 0 as half a cosine."""
    return CosineAnnealingLR(optimizer, T_max=steps)


def constant(optimizer: Optimizer, learning_rate: float, steps: int) -> LRScheduler:
    """Return a constant learning rate."""
    return LambdaLR(optimizer, lambda step: 1.0)


SCHEDULES: dict[str, Callable[[Optimizer, float, int], LRScheduler]] = {
    "one_cycle": one_cycle,
    "warm_polynomial": warm_polynomial,
    "cosine": cosine,
    "constant": constant,
}


def make_schedule(optimizer: Optimizer, *, name: str, learning_rate: float, steps: int) -> LRScheduler:
    """Return a schedule by name, to be stepped after every training step.

    Args:
        name: in `SCHEDULES`.
        learning_rate: the highest.
        steps: of the whole training.

    Raises:
        InputError: an unknown name.
    """
    if name not in SCHEDULES:
        raise InputError(f"schedule: {name!r} is unknown; choose one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name](optimizer, learning_rate, steps)


def replay(schedule: LRScheduler, steps: int) -> None:
    """Bring a schedule that has not begun to where it stands after so many steps, its optimizer's rates with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch misses the steps of the optimizer
        for _ in range(steps):
            schedule.step()
