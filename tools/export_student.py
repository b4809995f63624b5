"""Write the student of a distillation checkpoint on its own, for use without shd_vit.

OUT holds `state_dict` with the names that the student was trained under: mmpretrain's, or timm's of
a TimmClassifier. --to converts them, as tools/convert_weights.py does, and runs what was written
beside the student: --config tells it. --onnx writes the model as ONNX instead and compares it with
torch. See docs/export.md.
"""

import argparse

from shd_vit.checkpoint import model_weights, safe_load
from shd_vit.convert.cli import add_options, summary, write
from shd_vit.convert.files import plain_meta, save_weights
from shd_vit.convert.models import put_in
from shd_vit.convert.onnx import export_onnx
from shd_vit.convert.source import model_of_config, stated_facts
from shd_vit.errors import CheckpointError
from shd_vit.hosts.mmpretrain.checkpoint import student_weights
from shd_vit.hosts.mmpretrain.cli import run_tool
from shd_vit.image_input import image_shape


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
    state, which = model_weights(checkpoint, args.checkpoint, ema=args.ema)
    weights = student_weights(state)
    if not weights:
        raise CheckpointError(
            f"checkpoint {args.checkpoint!r} has no weights named 'student.*': expected one that "
            'tools/train.py wrote for a ViTDistiller; tools/convert_weights.py takes any other'
        )
    print(f'{args.checkpoint}: {which}')
    if args.onnx:
        print(write_onnx(weights, args))
    elif args.to:
        print(write(weights, args, checkpoint))
    else:
        save_weights(weights, args.out, plain_meta(checkpoint))
        print(summary(weights, args.out))


def write_onnx(weights: dict, args: argparse.Namespace) -> str:
    """Write ONNX as the command line says; returns what was written."""
    student = put_in(model_of_config(args.onnx, '--onnx'), weights)
    shape = image_shape(student, stated_facts(args).get('image_size'))
    difference = export_onnx(student, args.out, shape)
    return (
        f'{args.out}: logits of normalised images (batch, {", ".join(map(str, shape))}); '
        f'largest difference between onnxruntime and torch {difference:.1e}'
    )


if __name__ == '__main__':
    run_tool(main)
