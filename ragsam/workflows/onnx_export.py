"""A run's network as ONNX, the encoder apart from the decoder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ragsam.errors import InputError
from ragsam.networks.deployable import Decoder, Encoder, Whole, example_inputs, prepare, stem_names
from ragsam.workflows.deployment import TRACED_BATCH, largest_difference, quiet, run_channels, trained_network

#: From here on weights go into a file beside: an ONNX file ends at 2 GiB.
_LARGE_BYTES = 2**31 - 2**24


def export_onnx(run: str | os.PathLike[str], output: str | os.PathLike[str]) -> float:
    """Write a run's network as ONNX: `encoder.onnx` from slices to their embedding, `decoder.onnx` on to the logits.

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
    whole, channels = Whole(prepare(network)), run_channels(run)
    encoder, decoder = Encoder(network), Decoder(network)
    image, *vote = example_inputs(network, TRACED_BATCH, channels)
    names = ["embedding", *stem_names(network)]
    with quiet(), torch.no_grad(), _new_folder(output) as folder:
        first, second = folder / "encoder.onnx", folder / "decoder.onnx"
        _write(first, encoder, {"image": image}, names, about)
        inputs = dict(zip(names, encoder(image), strict=True)) | ({"vote": vote[0]} if vote else {})
        _write(second, decoder, inputs, ["logits"], about)
        encode, decode = _session(first), _session(second)

        def chain(image: Tensor, *vote: Tensor) -> Tensor:
            return decode(*encode(image), *vote)[0]

        return largest_difference(
            Path(output).name, whole, chain, lambda batch: example_inputs(network, batch, channels)
        )


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"--to onnx: needs {error.name}; pip install 'ragsam[onnx]'") from error


def _write(
    path: Path, part: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write a part that takes any number of slices."""
    batch = torch.export.Dim("batch")
    program = torch.onnx.export(
        part,
        tuple(inputs.values()),
        input_names=list(inputs),
        output_names=list(outputs),
        dynamic_shapes=(tuple({0: batch} for _ in inputs),),
        dynamo=True,
        verbose=False,
    )
    program.model.metadata_props["ragsam"] = json.dumps(about)
    weights = sum(tensor.nbytes for tensor in part.state_dict().values())
    program.save(path, external_data=weights > _LARGE_BYTES)


def _session(path: Path) -> Callable[..., list[Tensor]]:
    """Return a function that runs a file on the CPU: tensors in their order to tensors."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*tensors: Tensor) -> list[Tensor]:
        given = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, given)]

    return run


@contextmanager
def _new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary folder, which becomes `path` when the block ends well."""
    target = Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target}: holds something already; choose another output, or remove it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".tmp-") as temporary:
            folder = Path(temporary) / target.name
            folder.mkdir()
            yield folder
            os.replace(folder, target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror or error}); choose another output") from error
