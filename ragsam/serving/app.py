"""What a served run adds to MONAI Label's app for bundles: prompts, and active learning by novelty."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragsam.console.malloc import keep_freed_memory
from ragsam.errors import InputError
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.runs.run import root_cause
from ragsam.serving.novelty_strategy import NoveltyStrategy
from ragsam.serving.prompt_task import PromptTask, answers_prompts


class RunTasks:
    """A class to put before MONAI Label's app for bundles, whose `models` are folders by name, among the bases.

    A run without bank gets no `novelty`, one that answers no prompts no model `NAME_prompts`. Bad input is answered by
    400 and its line, where the server would say 500 and nothing else.
    """

    models: dict[str, str]

    def init_infers(self) -> dict[str, Any]:
        """Return the app's models, by name."""
        keep_freed_memory()
        prompted = {name: Path(run) for name, run in self.models.items() if answers_prompts(Path(run))}
        return super().init_infers() | {f"{name}_prompts": PromptTask(run) for name, run in prompted.items()}

    def init_strategies(self) -> dict[str, Any]:
        """Return the app's ways to choose the next image, by name."""
        strategies = super().init_strategies()
        for run in map(Path, self.models.values()):
            if (run / "bank" / MANIFEST).is_file():
                strategies["novelty"] = NoveltyStrategy(run)
        return strategies

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Return the label of an image."""
        with _told_to_the_client():
            return super().infer(request, datastore)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the image that a strategy chooses."""
        with _told_to_the_client():
            return super().next_sample(request)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a model on the labels that there are."""
        with _told_to_the_client():
            return super().train(request)


@contextmanager
def _told_to_the_client() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not isinstance(cause := root_cause(error), InputError):
            raise
        from fastapi import HTTPException  # MONAI Label's environment has it

        raise HTTPException(status_code=400, detail=str(cause)) from error
