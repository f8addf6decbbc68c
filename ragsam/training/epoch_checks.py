"""The epoch from which something is done in a training: a whole number that the training reaches."""

from __future__ import annotations

from typing import Any

from ignite.engine import Engine, Events

from ragsam.errors import InputError


def require_reached(engine: Engine, option: str, first_epoch: Any) -> None:
    """Have a trainer refuse, when it starts, an epoch that it would never come to.

    Args:
        option: what names the epoch, for the message.

    Raises:
        InputError: at once, for what is not a whole number from 1 on.
    """
    if type(first_epoch) is not int or first_epoch < 1:
        raise InputError(f"{option}: {first_epoch!r} is not a whole number from 1 on")
    engine.add_event_handler(Events.STARTED, _refuse, option, first_epoch)


def refuse_unreached(option: str, first_epoch: int, epochs: int) -> None:
    """Refuse an epoch beyond the last one.

    Raises:
        InputError: there is no such epoch.
    """
    if first_epoch > epochs:
        raise InputError(f"{option}: there is no epoch {first_epoch}, the last one is {epochs}")


def _refuse(engine: Engine, option: str, first_epoch: int) -> None:
    refuse_unreached(option, first_epoch, engine.state.max_epochs)
