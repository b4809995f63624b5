"""Top-1 and top-5 accuracy of a checkpoint: a distiller's, an exported student's, or any other."""

import mmengine
from mmengine.evaluator import DumpResults

from shd_vit.hosts.mmpretrain.cli import build_runner, config_of, config_parser, run_tool
from shd_vit.hosts.mmpretrain.model_config import plain_classifier


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--out', help='file for the results (.json, .yaml or .pkl)')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        default='metrics',
        help='metrics and number of parameters (default), or every prediction, as a pickle',
    )
    args = parser.parse_args()
    # The student alone: no teacher is built, and an exported student fits as well.
    cfg = plain_classifier(config_of(args))
    cfg.load_from = args.checkpoint

    runner = build_runner(cfg)
    if args.out and args.out_item == 'pred':
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    metrics['parameters'] = sum(p.numel() for p in runner.model.parameters())
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    run_tool(main)
