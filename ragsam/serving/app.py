"""What a served run adds to MONAI Label's app for bundles: prompts, novelty, and a bank that learns from labels."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ragsam.console.malloc import keep_freed_memory
from ragsam.errors import InputError
from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.runs.run import bad_input
from ragsam.serving.learning import LearningBank
from ragsam.serving.novelty_strategy import NoveltyStrategy
from ragsam.serving.prompt_task import PromptTask, answers_prompts


class RunTasks:
    """A base class before MONAI Label's app for bundles, whose `models` are folders by name.

    Only runs with a bank get the strategy `novelty` and learn from labels, and only those that answer prompts a model
    `NAME_prompts`. Bad input is answered by status 400 and its message instead of a bare 500.
    """

    models: dict[str, str]

    def init_infers(self) -> dict[str, Any]:
        """Return the app's models, by name."""
        keep_freed_memory()
        infers = super().init_infers()
        for name, folder in self.models.items():
            run = Path(folder)
            if answers_prompts(run):
                infers[f"{name}_prompts"] = PromptTask(run)
        return infers

    def init_strategies(self) -> dict[str, Any]:
        """Return the app's strategies for choosing the next image, by name."""
        strategies = super().init_strategies()
        for folder in self.models.values():
            run = Path(folder)
            if (run / "bank" / MANIFEST).is_file():
                strategies["novelty"] = NoveltyStrategy(run)
        return strategies

    def init_datastore(self) -> Any:
        """Return the store of images and labels; MONAI Label calls nobody when a label is removed, so it is wrapped."""
        store = super().init_datastore()
        remove = store.remove_label

        def remove_label(label_id: str, label_tag: str) -> None:
            remove(label_id, label_tag)
            for bank in self._banks():
                bank.forget(store, label_id, label_tag)

        store.remove_label = remove_label
        return store

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Put the final label of an image into the bank of every run; return what came of it, for the answer."""
        super().on_save_label(image_id, label_id)
        told = [bank.learn(self.datastore(), image_id) for bank in self._banks()]
        return {"bank": "; ".join(filter(None, told))}

    def _banks(self) -> Iterator[LearningBank]:
        for folder in self.models.values():
            if (Path(folder) / "bank" / MANIFEST).is_file():
                yield LearningBank(Path(folder))

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        """Return the label of an image."""
        with _bad_input_as_400():
            return super().infer(request, datastore)

    def next_sample(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the image chosen by a strategy."""
        with _bad_input_as_400():
            return super().next_sample(request)

    def train(self, request: dict[str, Any]) -> dict[str, Any]:
        """Train a model on the existing labels."""
        with _bad_input_as_400():
            return super().train(request)


@contextmanager
def _bad_input_as_400() -> Iterator[None]:
    try:
        with bad_input():
            yield
    except InputError as error:
        from fastapi import HTTPException  # MONAI Label's environment has it

        raise HTTPException(status_code=400, detail=str(error)) from error
