"""A run on disk: a folder with configs, the card of its organs, weights and a bank; and its workflows run by MONAI."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragsam.data.cards.load import Card, load_card
from ragsam.errors import InputError
from ragsam.io.documents import read_json
from ragsam.runs.config_reader import checked_text, read_mapping
from ragsam.runs.settings import is_made_by_monai

if TYPE_CHECKING:
    from monai.bundle import ConfigParser, ConfigWorkflow

CONFIGS_FOLDER = "configs"
CARD = f"{CONFIGS_FOLDER}/card.yaml"
METADATA = f"{CONFIGS_FOLDER}/metadata.json"
WEIGHTS = "models/model.safetensors"
BANK = "bank"
_PARSING = {f"monai.bundle.{name}" for name in ("config_parser", "reference_resolver", "config_item")}


class RunFolder:
    """The folder of a run, or of a bundle, which has neither card nor weights yet.

    Args:
        path: the folder.
        needs: the config that it must have: `inference`, `train` or `evaluate`.

    Attributes:
        path: absolute.
        card_path, metadata_path, weights, bank: where they are, or would be.

    Raises:
        InputError: it has no such config.
    """

    def __init__(self, path: str | os.PathLike[str], needs: str = "inference") -> None:
        self.given = path
        self.path = Path(path).absolute()
        self.card_path = self.path / CARD
        self.metadata_path = self.path / METADATA
        self.weights = self.path / WEIGHTS
        self.bank = self.path / BANK
        self.config(needs)

    @classmethod
    def is_one(cls, path: str | os.PathLike[str], needs: str = "inference") -> bool:
        """Whether a folder has such a config."""
        return (Path(path) / CONFIGS_FOLDER / f"{needs}.yaml").is_file()

    def config(self, name: str) -> Path:
        """Return the path of a config.

        Raises:
            InputError: no such config.
        """
        if not self.is_one(self.path, name):
            raise InputError(f"{self.given}: not a run (no configs/{name}.yaml); make one with `ragsam train`")
        return self.path / CONFIGS_FOLDER / f"{name}.yaml"

    def text(self, name: str) -> str:
        """Return a config as text, which can be read as data.

        Raises:
            InputError: as `read_mapping`.
        """
        return checked_text(self.config(name))

    def content(self, name: str) -> dict[str, Any]:
        """Return a config as data, its references and expressions as texts; raises as `read_mapping`."""
        return read_mapping(self.config(name))

    @cached_property
    def card(self) -> Card:
        """The card of its organs."""
        return load_card(self.card_path)

    def parser(self, name: str, **values: Any) -> ConfigParser:
        """Return MONAI's parser of a config, with some values by their keys instead of its own.

        Raises:
            InputError: as `content`, or a path with a `#`, see `require_plain`.
        """
        from monai.bundle import ConfigParser  # takes a second; only needed here

        self.content(name)
        require_plain(self.path, *values.values())
        parser = ConfigParser()
        with bad_input():
            parser.read_config(str(self.config(name)))
            parser.update({"bundle_root": str(self.path), **values})
        return parser

    def workflow(self, name: str, **values: Any) -> ConfigWorkflow:
        """Return the workflow of a config, not yet initialized, with some values by their keys instead of its own.

        Raises:
            InputError: as `content`, metadata.json that cannot be read, or a path with a `#`, see `require_plain`.
        """
        from monai.bundle import ConfigWorkflow  # takes a second; only needed here

        self.content(name)
        read_json(self.metadata_path, {"type": "object"})  # as data, before MONAI does
        require_plain(self.path, *values.values())
        logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)  # it warns that nothing is logged
        logging.getLogger("ignite").setLevel(logging.CRITICAL)  # an error is reported once, by who caught it
        with bad_input():
            return ConfigWorkflow(
                config_file=str(self.config(name)),
                meta_file=str(self.metadata_path),
                logging_file=False,  # what is shown, and where, is for who calls
                workflow_type="train" if name == "train" else "inference",
                bundle_root=str(self.path),
                **values,
            )


def run_config(run: str | os.PathLike[str], config: str, **values: Any) -> None:
    """Run one config of a bundle as `python -m monai.bundle run` does.

    Args:
        run: the bundle's folder.
        config: `train`, `inference` or `evaluate`.
        values: by config key, instead of the config's own.

    Raises:
        InputError: the run has no such config, or whatever bad input the workflow meets.
    """
    workflow = RunFolder(run, config).workflow(config, **values)
    with bad_input():
        workflow.initialize()
        workflow.run()
        workflow.finalize()


def part_of(parser: ConfigParser, name: str) -> Any:
    """Return a part that a config builds, such as its network.

    Raises:
        InputError: a plain value in its place.
    """
    part = parser.get_parsed_content(name)
    if part is None or isinstance(part, bool | int | float | str | list | dict):
        told = f"the run's config: {name} is {str(part)[:60]!r}, which is not a part"
        raise InputError(f"{told}; take that part from a bundle of this package")
    return part


def require_plain(*values: Any) -> None:
    """Refuse paths that MONAI would change: in every text of a config it turns `#` into `::`.

    Raises:
        InputError: a path, or a text that is no expression, with a `#`.
    """
    for value in values:
        if isinstance(value, str | Path) and "#" in str(value) and not is_made_by_monai(value):
            raise InputError(f"{value}: MONAI's configs take # for a separator; choose a folder without one")


def root_cause(error: BaseException) -> BaseException:
    """Return the bad input among an error and its causes, or the error itself."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:  # causes may refer to each other
        if isinstance(cause, InputError):
            return cause
        seen.add(id(cause))
        cause = cause.__cause__ or cause.__context__
    return error


def _is_of_config(error: Exception) -> bool:
    """Whether it arose while MONAI made the parts of a config, not while an engine ran."""
    modules = {frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)}
    return bool(modules & _PARSING) and not any(name.startswith("ignite.") for name in modules)


@contextmanager
def bad_input() -> Iterator[None]:
    """Raise bad input as it was, where MONAI's config parser or engine wraps it; other errors stay.

    What the parser cannot make of a config is bad input too.
    """
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        if cause is error:
            if not isinstance(error, InputError) and _is_of_config(error):
                reason = " ".join(str(error).split()).partition(" set '_mode_=debug'")[0]
                cause = error.__cause__ or error
                kind = type(cause).__name__ if cause is error else f"{type(cause).__name__}: {cause}"
                told = f"the run's config: {reason} ({kind})"
                raise InputError(f"{told}; take that part from a bundle of this package") from error
            raise
        raise cause from cause.__cause__  # not from `error`, whose cause it is
