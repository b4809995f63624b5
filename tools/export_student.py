"""Write the student of a distillation checkpoint as a checkpoint of its own.

The file holds `state_dict` with the names that mmpretrain (ImageClassifier) or timm (the model of a
TimmClassifier) gives the weights, and loads there without shd_vit.
"""

import argparse
import os

import torch

from shd_vit.engine.checkpoint import safe_load, student_weights
from shd_vit.engine.cli import run_tool
from shd_vit.errors import CheckpointError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a distillation')
    parser.add_argument('out', help='file to write, such as student.pth')
    args = parser.parse_args()

    checkpoint = safe_load(args.checkpoint)
    weights = student_weights(checkpoint.get('state_dict', checkpoint))
    if not weights:
        raise CheckpointError(
            f"checkpoint {args.checkpoint!r} has no weights named 'student.*': expected one that "
            'tools/train.py wrote for a ViTDistiller'
        )
    meta = {k: v for k, v in checkpoint.get('meta', {}).items() if k in ('dataset_meta', 'epoch')}
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    torch.save(dict(state_dict=weights, meta=meta), args.out)
    parameters = sum(weight.numel() for weight in weights.values())
    print(f'{args.out}: {len(weights)} tensors, {parameters:,} parameters')


if __name__ == '__main__':
    run_tool(main)
