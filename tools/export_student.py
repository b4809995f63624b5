"""Write the student of a distillation checkpoint on its own, for use without shd_vit.

OUT holds `state_dict` with the names that the student was trained under: mmpretrain's, or timm's of
a TimmClassifier. --to converts them, as tools/convert_weights.py does. --onnx writes the model as
ONNX instead and compares it with torch. See docs/export.md.
"""

import argparse

from mmpretrain.registry import MODELS

from shd_vit.checkpoint import safe_load, weights_of
from shd_vit.convert.cli import add_options, summary, write
from shd_vit.convert.files import save_weights
from shd_vit.convert.onnx import export_onnx, image_shape
from shd_vit.errors import CheckpointError
from shd_vit.hosts.mmpretrain.checkpoint import insert_weights, student_weights
from shd_vit.hosts.mmpretrain.cli import run_tool
from shd_vit.hosts.mmpretrain.model_config import read_model_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('checkpoint', help='checkpoint of a distillation')
    parser.add_argument('out', help='file to write, such as student.pth')
    add_options(parser, help='the library that is to read OUT (default: names as trained)')
    parser.add_argument(
        '--onnx',
        metavar='CONFIG',
        help='write ONNX, of the student in this config; its batch axis is dynamic',
    )
    args = parser.parse_args()
    if args.onnx and args.to:
        parser.error('--onnx and --to are two different exports')

    checkpoint = safe_load(args.checkpoint)
    weights = student_weights(weights_of(checkpoint, args.checkpoint))
    if not weights:
        raise CheckpointError(
            f"checkpoint {args.checkpoint!r} has no weights named 'student.*': expected one that "
            'tools/train.py wrote for a ViTDistiller; tools/convert_weights.py takes any other'
        )
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    meta = {key: meta[key] for key in ('dataset_meta', 'epoch') if key in meta}
    if args.onnx:
        print(write_onnx(weights, args))
    elif args.to:
        print(write(weights, args, meta))
    else:
        save_weights(weights, args.out, meta)
        print(summary(weights, args.out))


def write_onnx(weights: dict, args: argparse.Namespace) -> str:
    """Write ONNX as the command line says; returns what was written."""
    student = MODELS.build(read_model_config(args.onnx, '--onnx').model)
    insert_weights(student, weights, args.checkpoint)
    shape = image_shape(student)
    difference = export_onnx(student, args.out, shape)
    return (
        f'{args.out}: logits of normalised images (batch, {", ".join(map(str, shape))}); '
        f'largest difference between onnxruntime and torch {difference:.1e}'
    )


if __name__ == '__main__':
    run_tool(main)
