"""Train a model: a distillation, or any mmpretrain config."""

import torch

from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.cli import build_runner, config_of, config_parser, run_tool
from shd_vit.hosts.mmpretrain.ffcv_config import train_from_ffcv


def main() -> None:
    parser = config_parser(__doc__)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from this checkpoint; without a value, from the latest in the work dir',
    )
    parser.add_argument(
        '--amp',
        nargs='?',
        const='float16' if torch.cuda.is_available() else 'bfloat16',
        choices=['float16', 'bfloat16'],
        help='train in mixed precision; without a value, float16 on a GPU and bfloat16 without',
    )
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate from auto_scale_lr.base_batch_size to the actual batch',
    )
    parser.add_argument(
        '--no-validate', action='store_true', help='do not evaluate during training'
    )
    parser.add_argument(
        '--ffcv',
        metavar='BETON',
        help='train from this .beton file with the transforms of the config; '
        'tools/data/write_ffcv.py writes one',
    )
    args = parser.parse_args()
    cfg = config_of(args)

    if args.ffcv:
        train_from_ffcv(cfg, args.ffcv)
    if args.amp == 'bfloat16':
        cfg.optim_wrapper.type = 'BFloat16OptimWrapper'
    elif args.amp:
        if not torch.cuda.is_available():
            raise ConfigError('--amp float16 needs a GPU to scale losses on; use --amp bfloat16')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = None if args.resume == 'auto' else args.resume
    if args.auto_scale_lr:
        if not cfg.get('auto_scale_lr'):
            raise ConfigError('--auto-scale-lr needs auto_scale_lr.base_batch_size in the config')
        cfg.auto_scale_lr.enable = True
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        cfg.default_hooks.checkpoint.pop('save_best', None)

    build_runner(cfg).train()


if __name__ == '__main__':
    run_tool(main)
