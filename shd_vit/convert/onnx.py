"""A model as ONNX, checked against torch."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path

import torch
from torch import nn

from shd_vit.convert.files import output_file
from shd_vit.errors import CheckpointError, ConfigError

BATCHES = (1, 3)


def export_onnx(
    model: nn.Module, out: str | Path, image_shape: tuple[int, int, int], tolerance: float = 1e-4
) -> float:
    """Write a model with a dynamic batch axis, and compare onnxruntime with torch.

    Args:
        model: Logits (B, classes) of normalised images (B, C, h, w). It is not changed.
        out: File that ends in ``.onnx``; folders on the way are made.
        image_shape: (C, h, w).
        tolerance: How far logits may differ.

    Returns:
        The largest difference of a logit, over a batch of one image and one of three.

    Raises:
        ConfigError: If ``out`` ends otherwise or cannot be written, or a package is missing.
        CheckpointError: If logits differ by more than ``tolerance``. ``out`` stays as it was.
    """
    missing = [
        package
        for package in ('onnx', 'onnxruntime', 'onnxscript')
        if importlib.util.find_spec(package) is None
    ]
    if missing:
        raise ConfigError(f'ONNX needs {", ".join(missing)}: pip install "shd_vit[onnx]"')
    model = copy.deepcopy(model).cpu().float().eval()
    with output_file(out, ('.onnx',)) as part:
        torch.onnx.export(
            model,
            (torch.zeros(2, *image_shape),),
            str(part),
            input_names=['images'],
            output_names=['logits'],
            dynamic_shapes=({0: torch.export.Dim('batch')},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        difference = onnx_difference(model, part, image_shape)
        if not difference <= tolerance:  # NaN is a difference too
            raise CheckpointError(
                f'logits of onnxruntime and torch differ by {difference:.1e}, more than '
                f'{tolerance:.0e}'
            )
    return difference


def onnx_difference(model: nn.Module, path: str | Path, image_shape: tuple[int, int, int]) -> float:
    """The largest difference of a logit between a file in onnxruntime and the model in torch."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    generator = torch.Generator().manual_seed(0)
    difference = 0.0
    for batch in BATCHES:
        images = torch.randn(batch, *image_shape, generator=generator)
        (logits,) = session.run(None, {'images': images.numpy()})
        with torch.no_grad():
            expected = model(images)
        difference = max(difference, (torch.from_numpy(logits) - expected).abs().max().item())
    return difference
