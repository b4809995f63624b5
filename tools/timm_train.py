"""Distil a timm model into another on a folder of images, with timm's own loaders and optimisers.

Options are named as in timm's train.py. Needs neither mmengine nor mmpretrain.

python tools/timm_train.py data/imagenet --model deit_tiny_patch16_224 \\
    --teacher deit3_small_patch16_224.fb_in1k --vitkd --nkd
torchrun --nproc_per_node 8 tools/timm_train.py data/imagenet ... --amp
python tools/timm_train.py data/imagenet ... --resume output/timm_train/deit_tiny/last.pth.tar
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from timm import utils
from timm.data import resolve_data_config
from timm.models import create_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils.summary import trim_summary

from shd_vit.checkpoint import safe_load
from shd_vit.command import run_tool
from shd_vit.errors import ConfigError
from shd_vit.hosts.timm.checkpoint import create_from, load_weights, own_history, resume_task
from shd_vit.hosts.timm.loaders import datasets, loaders
from shd_vit.hosts.timm.loop import train_epoch, validate
from shd_vit.hosts.timm.pretrained import refuse_head_without_weights
from shd_vit.hosts.timm.task import SHDDistillationTask

_logger = logging.getLogger('timm_train')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    flag = argparse.BooleanOptionalAction
    add('data_dir', help='folder with train/ and val/ (or validation/), a folder a class')
    add('--dataset', default='', help='timm dataset type and name (default: folder of images)')
    add('--model', default='deit_tiny_patch16_224', help='student (default: %(default)s)')
    add('--model-kwargs', nargs='*', default={}, action=utils.ParseKwargs, metavar='KEY=VALUE')
    add('--pretrained', action='store_true', help='start from pretrained weights')
    add('--initial-checkpoint', default='', help='start from these weights')
    add('--num-classes', type=int, help='default: the folders in train/')
    add('--img-size', type=int, help="default: the student's")

    group = parser.add_argument_group('distillation')
    add = group.add_argument
    add('--teacher', required=True, help='teacher, a timm model name')
    add('--teacher-path', help='its weights (default: pretrained ones)')
    add('--teacher-img-size', type=int, help="resize images for it (default: the student's)")
    add('--teacher-dtype', choices=['bfloat16', 'float16'], help='to halve its memory')
    add('--teacher-kwargs', nargs='*', default={}, action=utils.ParseKwargs, metavar='KEY=VALUE')
    add('--shd', action=flag, default=True, help='attention maps follow squeezed ones')
    add('--shd-beta', type=float, default=1.0, help='weight of SHD (default: %(default)s)')
    add('--shd-temperature', type=float, default=1.0, help='T_a (default: %(default)s)')
    add('--shd-strategy', default='linear', help='how heads are merged (default: %(default)s)')
    add(
        '--shd-schedule',
        nargs='*',
        default={},
        action=utils.ParseKwargs,
        metavar='KEY=VALUE',
        help='of its weight, in epochs, such as warm_up=5 stop=200',
    )
    add('--vitkd', action=flag, default=False, help='tokens, by ViTKD')
    add('--nkd', action=flag, default=False, help='logits, by NKD')
    add('--task-loss-weight', type=float, help='default: 1')
    add('--distill-loss-weight', type=float, help='default: 1, or 1 minus the task loss weight')

    group = parser.add_argument_group('training')
    add = group.add_argument
    add('-b', '--batch-size', type=int, default=128, help='a process (default: %(default)s)')
    add('-vb', '--validation-batch-size', type=int, help='default: as in training')
    add('--epochs', type=int, default=300)
    add('--opt', default='adamw')
    add('--lr', type=float, default=1e-3)
    add('--weight-decay', type=float, default=0.05)
    add('--layer-decay', type=float)
    add('--clip-grad', type=float, help='largest norm of the gradient')
    add('--grad-accum-steps', type=int, default=1)
    add('--sched', default='cosine')
    add('--warmup-epochs', type=int, default=5)
    add('--warmup-lr', type=float, default=1e-6)
    add('--min-lr', type=float, default=1e-5)
    add('--amp', action='store_true', help='mixed precision')
    add('--amp-dtype', default='bfloat16', choices=['bfloat16', 'float16'])
    add('--torchcompile', nargs='?', const='inductor', metavar='BACKEND')
    add('--model-ema', action='store_true', help='average weights, and validate the average too')
    add('--model-ema-decay', type=float, default=0.9998)
    add('--seed', type=int, default=42)

    group = parser.add_argument_group('images')
    add = group.add_argument
    add('--no-aug', action='store_true')
    add('--aa', default='rand-m9-mstd0.5-inc1', help='auto augmentation (default: %(default)s)')
    add('--color-jitter', type=float, default=0.3)
    add('--reprob', type=float, default=0.25, help='random erasing (default: %(default)s)')
    add('--mixup', type=float, default=0.0, metavar='ALPHA')
    add('--cutmix', type=float, default=0.0, metavar='ALPHA')
    add('--smoothing', type=float, default=0.1)
    add('-j', '--workers', type=int, default=4)

    group = parser.add_argument_group('runs')
    add = group.add_argument
    add('--output', default='output/timm_train', help='folder of runs (default: %(default)s)')
    add('--experiment', help='folder of this run in it (default: the name of the student)')
    add('--resume', default='', help='checkpoint to go on from')
    add('--checkpoint-hist', type=int, default=3, help='how many to keep (default: %(default)s)')
    add('--eval-metric', default='top1', choices=['top1', 'top5', 'loss'])
    add('--log-interval', type=int, default=50, help='steps (default: %(default)s)')
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    return parser.parse_args(argv)


def main() -> None:
    utils.setup_default_logging()
    args = parse_args()
    device = utils.init_distributed_device(args)
    if not utils.is_primary(args):
        logging.disable(logging.WARNING)
    utils.random_seed(args.seed, args.rank)
    check_files(args)

    train_set, val_set = datasets(args)
    task, data_config = build_task(args, device)
    train_loader, val_loader = loaders(args, data_config, train_set, val_set, device)
    optimizer = create_optimizer_v2(
        task.get_trainable_module(),
        opt=args.opt,
        lr=args.lr,
        weight_decay=args.weight_decay,
        layer_decay=args.layer_decay,
    )
    is_half = args.amp and args.amp_dtype == 'float16'
    scaler = utils.NativeScaler(device.type) if is_half else None
    if args.model_ema:
        task.setup_ema(decay=args.model_ema_decay)
    start, history = 0, None
    if args.resume:
        checkpoint = safe_load(args.resume)
        start = resume_task(task, checkpoint, args.resume, optimizer, scaler)
        history = own_history(checkpoint)
        del checkpoint
    task.settle(images for images, _ in train_loader)
    if args.torchcompile:
        task.compile(backend=args.torchcompile)
    if args.distributed:
        task.prepare_distributed(device_ids=[device] if device.type == 'cuda' else None)

    updates = -(-len(train_loader) // args.grad_accum_steps)
    schedule, epochs = create_scheduler_v2(
        optimizer,
        sched=args.sched,
        num_epochs=args.epochs,
        warmup_epochs=args.warmup_epochs,
        warmup_lr=args.warmup_lr,
        min_lr=args.min_lr,
        step_on_epochs=False,
        updates_per_epoch=updates,
    )
    schedule.step_update(start * updates)
    out = Path(args.output, args.experiment or args.model)
    saver = make_saver(args, task, optimizer, scaler, out) if utils.is_primary(args) else None
    if saver is not None:
        if history is not None:
            saver.load_state_dict(history)
        trim_summary(str(out / 'summary.csv'), start)

    for epoch in range(start, epochs):
        if hasattr(train_loader.sampler, 'set_epoch'):
            train_loader.sampler.set_epoch(epoch)
        trained = train_epoch(epoch, args, task, train_loader, optimizer, schedule, scaler)
        found = validate(args, task, val_loader)
        if task.has_ema():
            averaged = validate(args, task, val_loader, ema=True)
            found.update({f'{key}_ema': value for key, value in averaged.items()})
        shown = ', '.join(f'{key} {value:.4g}' for key, value in found.items())
        _logger.info('Epoch %d of %d: %s', epoch + 1, epochs, shown)
        if saver is not None:
            utils.update_summary(
                epoch,
                trained,
                found,
                filename=str(out / 'summary.csv'),
                lr=optimizer.param_groups[0]['lr'],
                write_header=not (out / 'summary.csv').exists(),
            )
            key = f'{args.eval_metric}_ema' if task.has_ema() else args.eval_metric
            best, best_epoch = saver.save_checkpoint(epoch, found[key])
    if saver is not None and start < epochs:
        _logger.info('Best %s %.4g, epoch %d: %s', key, best, best_epoch + 1, out)


def make_saver(
    args: argparse.Namespace, task: SHDDistillationTask, optimizer, scaler, out: Path
) -> utils.CheckpointSaver:
    """Keeps the best checkpoints of the run in its folder."""
    out.mkdir(parents=True, exist_ok=True)
    return utils.CheckpointSaver(
        task.get_eval_model(),
        optimizer,
        args=args,
        amp_scaler=scaler,
        checkpoint_dir=str(out),
        decreasing=args.eval_metric == 'loss',
        max_history=args.checkpoint_hist,
        task=task,
    )


def check_files(args: argparse.Namespace) -> None:
    """Refuse checkpoints that are not there before images are looked for.

    Raises:
        ConfigError: Naming the option.
    """
    for name in ('initial_checkpoint', 'teacher_path', 'resume'):
        file = getattr(args, name)
        if file and not Path(file).is_file():
            raise ConfigError(f'--{name.replace("_", "-")} {file!r} does not exist')


def build_task(args: argparse.Namespace, device: torch.device) -> tuple[SHDDistillationTask, dict]:
    """The task on its device, and how the student wants its images."""
    sizes = {} if args.img_size is None else dict(img_size=args.img_size)
    student = create_model(
        args.model,
        pretrained=args.pretrained,
        num_classes=args.num_classes,
        **{**sizes, **args.model_kwargs},
    )
    if args.initial_checkpoint:
        load_weights(student, args.initial_checkpoint)
    kwargs = {**sizes, **args.teacher_kwargs, 'num_classes': args.num_classes}
    if args.teacher_img_size is not None:
        kwargs['img_size'] = args.teacher_img_size
    if args.teacher_path:
        teacher = create_from(args.teacher, args.teacher_path, **kwargs)
    else:
        teacher = create_model(args.teacher, pretrained=True, **kwargs)
        if args.nkd:
            refuse_head_without_weights(teacher, '--nkd')
    mixes = bool(args.mixup or args.cutmix)
    task = SHDDistillationTask(
        student.to(device),
        teacher.to(device=device, dtype=getattr(torch, args.teacher_dtype or '', None)),
        teacher_image_size=args.teacher_img_size,
        criterion_kwargs=dict(smoothing=args.smoothing, soft_targets=mixes),
        shd=args.shd
        and dict(beta=args.shd_beta, temperature=args.shd_temperature, strategy=args.shd_strategy),
        vitkd=args.vitkd,
        nkd=args.nkd,
        schedules=dict(shd=args.shd_schedule) if args.shd and args.shd_schedule else None,
        distill_loss_weight=args.distill_loss_weight,
        task_loss_weight=args.task_loss_weight,
        device=device,
    )
    return task, resolve_data_config(sizes, model=student, verbose=utils.is_primary(args))


if __name__ == '__main__':
    run_tool(main)
