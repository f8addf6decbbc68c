"""A run's network as TorchScript, and what every export has in common: it is checked before it gets its name."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ragsam.errors import InputError
from ragsam.files import atomic_write
from ragsam.networks.deployable import Whole, example_inputs, prepare
from ragsam.outputs import Outputs
from ragsam.runs.trained import run_channels, trained_network, weight_files

#: Largest difference to PyTorch's logits that passes.
TOLERANCE = 1e-3
#: What is exported is made from this many slices, and checked on others.
TRACED_BATCH, CHECKED_BATCHES = 2, (1, 3)

_CHATTY = ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")


def export_torchscript(
    run: str | os.PathLike[str], output: str | os.PathLike[str], *, overwrite: bool = False
) -> float:
    """Write a run's network as TorchScript: slices [B, 3, S, S], with retrieval their vote too, to logits.

    Args:
        run: a trained run.
        output: the file.
        overwrite: replace a file that is not the package's own, see `Outputs`.

    Returns:
        The largest difference to PyTorch.

    Raises:
        InputError: no trained run, logits unlike PyTorch's, or a file that cannot be written.
    """
    with Outputs.of_file(output, reads=weight_files(run), overwrite=overwrite):
        return _written(run, output)


def _written(run: str | os.PathLike[str], output: str | os.PathLike[str]) -> float:
    network, about = trained_network(run)
    whole, channels = Whole(prepare(network)), run_channels(run)
    with quiet(), torch.no_grad(), atomic_write(output) as temporary:
        example = example_inputs(network, TRACED_BATCH, channels)
        traced = torch.jit.trace(whole, example, check_trace=False)
        frozen = torch.jit.freeze(traced)
        _follow_the_input(frozen.graph)
        try:
            torch.jit.save(frozen, str(temporary), _extra_files={"about.json": json.dumps(about)})
        except RuntimeError as error:
            raise OSError(str(error).splitlines()[0]) from error  # a full disk, reported as by every other writer
        exported = torch.jit.load(str(temporary))
        return largest_difference(
            Path(output).name, whole, exported, lambda batch: example_inputs(network, batch, channels)
        )


def largest_difference(
    name: str,
    reference: Callable[..., Tensor],
    exported: Callable[..., Tensor],
    inputs: Callable[[int], tuple[Tensor, ...]],
) -> float:
    """Return the largest difference between two functions' outputs.

    Args:
        name: of the file.
        inputs: makes the inputs of a batch.

    Raises:
        InputError: it is above `TOLERANCE`, or not a number.
    """
    largest = 0.0
    for batch in CHECKED_BATCHES:
        given = inputs(batch)
        difference = (exported(*given) - reference(*given)).abs().max().item()
        if not difference <= TOLERANCE:
            raise InputError(f"{name}: {difference:.2g} apart from PyTorch; not written, use the run itself instead")
        largest = max(largest, difference)
    return largest


@contextmanager
def quiet() -> Iterator[None]:
    """Silence exporters' warnings about shapes taken for constants: `largest_difference` measures their effect."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _follow_the_input(graph: torch.Graph) -> None:
    """Let a traced graph make its tensors on the device of its input; the trace has noted the one it was made on."""
    noted = [node for node in graph.findAllNodes("prim::Constant") if str(node.output().type()) == "Device"]
    if not noted:
        return
    device = graph.create("prim::device", [list(graph.inputs())[1]])  # the one before is the network
    device.output().setType(noted[0].output().type())
    graph.prependNode(device)
    for node in noted:
        node.output().replaceAllUsesWith(device.output())
        node.destroy()
