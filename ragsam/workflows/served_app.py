"""What a served run adds to MONAI Label's app for bundles: prompts, and active learning by novelty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ragsam.retrieval.bank_manifest import MANIFEST
from ragsam.workflows.served_novelty import NoveltyStrategy
from ragsam.workflows.served_prompts import PromptTask, answers_prompts


class RunTasks:
    """A class to put before MONAI Label's app for bundles, whose `models` are folders by name, among the bases.

    A run without bank gets no `novelty`, one that answers no prompts no model `NAME_prompts`.
    """

    models: dict[str, str]

    def init_infers(self) -> dict[str, Any]:
        """Return the app's models, by name."""
        prompted = {name: Path(run) for name, run in self.models.items() if answers_prompts(Path(run))}
        return super().init_infers() | {f"{name}_prompts": PromptTask(run) for name, run in prompted.items()}

    def init_strategies(self) -> dict[str, Any]:
        """Return the app's ways to choose the next image, by name."""
        strategies = super().init_strategies()
        for run in map(Path, self.models.values()):
            if (run / "bank" / MANIFEST).is_file():
                strategies["novelty"] = NoveltyStrategy(run)
        return strategies
