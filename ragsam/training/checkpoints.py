"""Resuming: after every epoch all that a training needs to continue is kept, in one file that is replaced whole."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ragsam.drafts import remove_drafts
from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.networks.checkpoints import read_checkpoint
from ragsam.networks.segmenter import Segmenter
from ragsam.retrieval.bank import Bank
from ragsam.retrieval.retriever import Retriever
from ragsam.training.disk_space import require_space, training_bytes
from ragsam.training.schedules import replay

logger = logging.getLogger(__name__)

LAST_NAME = "last.pt"
_BANK_NAME = "bank"


class Checkpoints:
    """Keeps the last finished epoch's state as `last.pt`, from which a training is resumed.

    Kept are the trainable weights, the optimizer, the schedule, the gradient scaler, and the state of both engines with
    what their handlers put under `state_dict_user_keys`. The bank is kept beside it whenever it was rebuilt. Random
    numbers need no keeping, see `EpochSeeds`. An epoch that was interrupted begins again.

    Args:
        folder: of `last.pt` and `bank/`.
        validator: the evaluator, which knows the best score so far.
        retriever: its bank is kept; None for a training without retrieval.
        resume: continue from `last.pt`, if there is one.

    Raises:
        InputError: at the start, for a state that is damaged or of a training with more epochs, or too little space.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        network: Segmenter,
        optimizer: Optimizer,
        lr_scheduler: LRScheduler,
        validator: Engine,
        *,
        retriever: Retriever | None = None,
        resume: bool = False,
    ) -> None:
        self.folder = Path(folder)
        self.network = network
        # Of the network the trainable weights alone: the frozen ones are in the base's own file.
        weights = SimpleNamespace(state_dict=network.trainable_state, load_state_dict=network.load_trainable_state)
        self.parts = {"network": weights, "optimizer": optimizer, "lr_scheduler": lr_scheduler}
        self.validator = validator
        self.retriever = retriever
        self.resume = resume
        self._kept_bank: Bank | None = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer, after the handler that validates: an epoch's validation belongs to its state."""
        self.parts |= {"trainer": engine, "validator": self.validator}
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.keep_bank)
        keep = Checkpoint(self.parts, self._write, filename_pattern=LAST_NAME)
        engine.add_event_handler(Events.EPOCH_COMPLETED, keep)

    def start(self, engine: Engine) -> None:
        """Load the last state if the training is resumed and has one."""
        if engine.scaler is not None:  # made when the trainer runs
            self.parts["scaler"] = engine.scaler
        if idist.get_rank() == 0:
            remove_drafts(self.folder, below=True)
            require_space(self.folder, training_bytes(self.network))
            if self.network.base_sha256 is None:
                logger.info("train: no base weights were given: the whole network trains")
        last = self.folder / LAST_NAME
        if not (self.resume and last.is_file()):
            return
        state = read_checkpoint(last)
        if engine.scaler is not None:
            state.setdefault("scaler", engine.scaler.state_dict())  # versions before this one did not keep it
        _check_length(state, engine)
        if state["trainer"]["max_epochs"] < engine.state.max_epochs:
            self._lengthen(state, engine.state.max_epochs)
        Checkpoint.load_objects(self.parts, state)
        bank_folder = self.folder / _BANK_NAME
        if self.retriever is not None and bank_folder.is_dir():
            self._kept_bank = Bank.open(bank_folder)
            self.retriever.attach(self._kept_bank)
        logger.info("train: resumed after epoch %d of %d", engine.state.epoch, engine.state.max_epochs)

    def _lengthen(self, state: dict[str, Any], epochs: int) -> None:
        """Make the state of a shorter training one of a longer training: its schedule, at the step that was reached."""
        optimizer, schedule = self.parts["optimizer"], self.parts["lr_scheduler"]
        replay(schedule, state["lr_scheduler"]["last_epoch"])
        before = state["trainer"]["max_epochs"]
        state["trainer"] = {**state["trainer"], "max_epochs": epochs}
        state["lr_scheduler"] = schedule.state_dict()
        state["optimizer"]["param_groups"] = optimizer.state_dict()["param_groups"]
        logger.info(
            "train: %d epochs instead of %d; the learning rate continues as in a training of %d", epochs, before, epochs
        )

    def keep_bank(self, engine: Engine) -> None:
        """Write the bank if it differs from the one that was written last."""
        if self.retriever is None or idist.get_rank() > 0:
            return
        bank = self.retriever.bank
        if bank is not self._kept_bank:
            bank.save(self.folder / _BANK_NAME)
            self._kept_bank = bank

    def _write(self, state: Mapping[str, Any], name: str, *_: Any) -> None:
        if idist.get_rank() == 0:
            with atomic_write(self.folder / name) as temporary:
                torch.save(state, temporary)


def _check_length(state: Mapping[str, Any], engine: Engine) -> None:
    """Refuse the state of a training with more epochs, or with epochs of another length."""
    trainer = state.get("trainer", {})
    epochs, given = trainer.get("max_epochs", 0), engine.state.max_epochs
    if epochs > given:
        raise InputError(
            f"{LAST_NAME}: of a training with epochs {epochs}, not {given}; resume it with as many, or more"
        )
    steps, given = trainer.get("epoch_length"), engine.state.epoch_length
    if steps != given:
        raise InputError(
            f"{LAST_NAME}: of a training with steps_per_epoch {steps}, not {given}; resume it with its own"
        )
