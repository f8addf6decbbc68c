"""A run's network as ONNX, the encoder apart from the decoder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ragsam.api.export_torchscript import TRACED_BATCH, largest_difference, quiet
from ragsam.drafts import draft_folder
from ragsam.errors import InputError
from ragsam.networks.deployable import (
    Decoder,
    Encoder,
    PromptedDecoder,
    Whole,
    example_inputs,
    example_prompts,
    prepare,
    stem_names,
)
from ragsam.networks.prompts import PromptedMasks
from ragsam.runs.trained import run_channels, trained_network

#: From here on weights go into a file beside: an ONNX file ends at 2 GiB.
_LARGE_BYTES = 2**31 - 2**24
_OF_POINTS = ("row", "column", "kind")


def export_onnx(run: str | os.PathLike[str], output: str | os.PathLike[str]) -> float:
    """Write a run's network as ONNX: `encoder.onnx` from slices to their embedding, `decoder.onnx` on to the logits.

    Where the network answers prompts, `prompted.onnx` goes from the embedding to the masks of prompted objects.

    Args:
        run: a trained run.
        output: a folder that is empty or not there yet.

    Returns:
        The largest difference to PyTorch.

    Raises:
        InputError: ONNX is not installed, no trained run, logits unlike PyTorch's, or a folder that holds something
            or cannot be written.
    """
    _require_onnx()
    network, about = trained_network(run)
    channels = run_channels(run)
    encoder, decoder = Encoder(prepare(network)), Decoder(network)
    image, *vote = example_inputs(network, TRACED_BATCH, channels)
    names = ["embedding", *stem_names(network)]
    with quiet(), torch.no_grad(), _new_folder(output) as folder:
        encode = _export(folder / "encoder.onnx", encoder, {"image": image}, names, about)
        seen = dict(zip(names, encoder(image), strict=True))
        given = seen | ({"vote": vote[0]} if vote else {})
        decode = _export(folder / "decoder.onnx", decoder, given, ["logits"], about)
        largest = largest_difference(
            "decoder.onnx",
            Whole(network),
            lambda image, *vote: decode(*encode(image), *vote)[0],
            lambda batch: example_inputs(network, batch, channels),
        )
        if not network.answers_prompts:
            return largest
        prompted, given = PromptedDecoder(network), seen | example_prompts(network, TRACED_BATCH)
        answer = _export(folder / "prompted.onnx", prompted, given, PromptedMasks._fields, about)
        differs = largest_difference(
            "prompted.onnx",
            lambda image, *prompts: _flat(prompted(*encoder(image), *prompts)),
            lambda image, *prompts: _flat(answer(*encode(image), *prompts)),
            lambda batch: (example_inputs(network, batch, channels)[0], *example_prompts(network, batch).values()),
        )
        return max(largest, differs)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--to onnx: needs {error.name}; pip install 'ragsam[onnx]'") from error


def _export(
    path: Path, part: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], about: Mapping[str, Any]
) -> Callable[..., Sequence[Tensor]]:
    """Write a part that takes any number of slices and points; return a function that runs the file on the CPU."""
    import onnxruntime

    batch, points = torch.export.Dim("batch"), torch.export.Dim("points")
    program = torch.onnx.export(
        part,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=(tuple({0: batch, 1: points} if name in _OF_POINTS else {0: batch} for name in inputs),),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props["ragsam"] = json.dumps(about)
    weights = sum(tensor.nbytes for tensor in part.state_dict().values())
    program.save(path, external_data=weights > _LARGE_BYTES)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(*tensors: Tensor) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(inputs, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors])


@contextmanager
def _new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the block ends well."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: is not empty; choose another output, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with draft_folder(target.parent) as folder:
            yield folder
            os.replace(folder, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another output") from error
