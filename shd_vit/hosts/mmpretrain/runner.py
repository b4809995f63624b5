"""DistillRunner: mmengine's Runner, made safe to interrupt, to resume and to run anywhere."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.dist import broadcast, is_distributed, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader

from shd_vit.errors import CheckpointError, ConfigError, ShdVitError
from shd_vit.files import write_whole
from shd_vit.hosts.mmpretrain.checkpoint import (
    check_resumable,
    insert_weights,
    mmengine_loads_safely,
    safe_load,
)
from shd_vit.hosts.mmpretrain.data_checks import DataCheckHook, reading
from shd_vit.hosts.mmpretrain.data_loaders import DATA_LOADERS
from shd_vit.hosts.mmpretrain.hooks import (
    ChannelOrderHook,
    EpochSeedHook,
    PlainCheckpointHook,
    SettleHook,
    unwrapped,
)
from shd_vit.hosts.mmpretrain.launch import init_gloo
from shd_vit.hosts.mmpretrain.memory import keep_freed_memory
from shd_vit.hosts.mmpretrain.own_files import forget_foreign_files, latest_checkpoint
from shd_vit.hosts.mmpretrain.schedule_hook import LossScheduleHook
from shd_vit.hosts.mmpretrain.weights import has_weights


@RUNNERS.register_module()
class DistillRunner(Runner):
    """A Runner for distillation and for the classifiers around it. ``runner_type`` in a config.

    - Several processes train with nccl on GPUs and with gloo without.
    - Checkpoints are written under another name and renamed, hold no code, and are read as data.
      Resuming and testing refuse weights that do not fit, and remove no files but the run's own.
    - Every epoch is seeded on its own: an interrupted run, resumed, ends like one that was not.
    - Weights of losses that have a schedule follow it.
    - A batch that does not fit the schedule, missing folders, and labels that do not mean the
      model's classes are refused at the start.
    - A dataloader dict with a ``type``, such as FFCVLoader, is built from DATA_LOADERS.
    """

    _is_testing = False
    _load_from: str | None

    def setup_env(self, env_cfg: dict) -> None:
        if get_device() == 'cpu':
            keep_freed_memory()
        if self.distributed and not is_distributed() and get_device() == 'cpu':
            init_gloo(self.launcher, env_cfg.get('dist_cfg', {}).get('timeout'))
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        if not self.distributed or get_device() != 'cpu' or is_model_wrapper(model):
            return super().wrap_model(model_wrapper_cfg, model)
        options = dict(
            broadcast_buffers=False,
            find_unused_parameters=self.cfg.get('find_unused_parameters', False),
        )
        return MMDistributedDataParallel(model, **{**options, **(model_wrapper_cfg or {})})

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        hooks = dict(default_hooks or {})
        saves = hooks.setdefault('checkpoint', dict(type='CheckpointHook', interval=1))
        if isinstance(saves, dict) and saves.get('type') in ('CheckpointHook', CheckpointHook):
            hooks['checkpoint'] = dict(saves, type='WholeCheckpointHook')
        super().register_hooks(hooks, custom_hooks)
        self.register_hook(EpochSeedHook())
        self.register_hook(PlainCheckpointHook())
        self.register_hook(ChannelOrderHook())
        self.register_hook(DataCheckHook())
        self.register_hook(SettleHook())
        self.register_hook(LossScheduleHook())

    def _init_model_weights(self) -> None:
        model = unwrapped(self.model)
        if not has_weights(model):
            with mmengine_loads_safely():
                super()._init_model_weights()
            return
        self.logger.info(f'{type(model).__name__} keeps the weights that its library gave it')
        for tensor in model.state_dict().values():
            broadcast(tensor)

    def build_optim_wrapper(self, optim_wrapper) -> OptimWrapper:
        wrapper = super().build_optim_wrapper(optim_wrapper)
        # mmengine's parameter groups are config dicts, on which torch.compile of a step fails.
        if isinstance(wrapper, OptimWrapper):
            groups = wrapper.optimizer.param_groups
            groups[:] = [dict(group) for group in groups]
        return wrapper

    @staticmethod
    def build_dataloader(
        dataloader: DataLoader | dict, seed: int | None = None, diff_rank_seed: bool = False
    ) -> DataLoader:
        if isinstance(dataloader, dict) and 'type' in dataloader:
            # What mmpretrain's tools set for torch's DataLoader; others see to it themselves.
            extra = ('collate_fn', 'persistent_workers', 'pin_memory')
            loader = {key: value for key, value in dataloader.items() if key not in extra}
            loader.setdefault('seed', None if diff_rank_seed else seed)
            return DATA_LOADERS.build(loader)
        if isinstance(dataloader, dict):
            dataloader = copy.deepcopy(dataloader)
            # mmengine seeds workers alike in every epoch; torch draws anew from the epoch's seed.
            dataloader.setdefault('worker_init_fn', dict(type=_keep_torch_seeds))
            # mmpretrain's tools set these for every loader.
            dataloader.setdefault('collate_fn', dict(type='default_collate'))
            dataloader.setdefault('pin_memory', torch.cuda.is_available())
            with reading(dataloader.get('dataset')):
                return Runner.build_dataloader(dataloader, seed, diff_rank_seed)
        return dataloader

    def scale_lr(self, optim_wrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate if asked to; else insist on the batch that it was made for."""
        super().scale_lr(optim_wrapper, auto_scale_lr)
        scaling = auto_scale_lr or {}
        base = scaling.get('base_batch_size')
        if not base or scaling.get('enable'):
            return
        loader = self._train_dataloader
        batch = loader.get('batch_size') if isinstance(loader, dict) else loader.batch_size
        steps = getattr(optim_wrapper, '_accumulative_counts', 1)
        # A batch sampler of the user's own knows its size alone.
        if batch and batch * self.world_size * steps != base:
            accumulated = f' x {steps} accumulated' if steps > 1 else ''
            raise ConfigError(
                f'train_dataloader.batch_size={batch} x {self.world_size} processes{accumulated} = '
                f'{batch * self.world_size * steps} images a step, but the learning rate is made '
                f'for auto_scale_lr.base_batch_size={base}: change the batch size, or pass '
                '--auto-scale-lr'
            )

    def save_checkpoint(self, out_dir: str, filename: str, *args, **kwargs) -> None:
        if '://' in out_dir or not is_main_process():
            super().save_checkpoint(out_dir, filename, *args, **kwargs)
            return
        with write_whole(Path(out_dir, filename)) as part:
            super().save_checkpoint(out_dir, part.name, *args, **kwargs)

    def load_checkpoint(
        self, filename: str, map_location='cpu', strict: bool = False, revise_keys=()
    ) -> dict:
        checkpoint = safe_load(filename, map_location)
        if self._resume:
            check_resumable(checkpoint, filename)
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrapped(self.model)
        strict = strict or self._resume or self._is_testing
        allow = () if strict else ('missing', 'unexpected')
        insert_weights(model, checkpoint, filename, allow)
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def load_or_resume(self) -> None:
        if self._resume and self._load_from is None and not self._has_loaded:
            latest = latest_checkpoint(self)
            self.logger.info(f'Resuming from the latest checkpoint: {latest}.')
            if latest is None:
                return
            self._load_from = latest
        super().load_or_resume()

    def resume(self, filename: str, *args, **kwargs) -> None:
        self._resume = True  # load_checkpoint is stricter then
        try:
            super().resume(filename, *args, **kwargs)
        except ShdVitError:
            raise
        except (AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
            # Models, optimisers and data are built: this is the checkpoint's optimiser or schedule.
            reason = ' '.join(str(error).split())[:300]
            raise CheckpointError(f'checkpoint {filename!r} cannot be resumed: {reason}') from error
        forget_foreign_files(self)
        # The sampler was built before the checkpoint told the run's seed.
        sampler: Any = getattr(self.train_dataloader, 'sampler', None)
        if hasattr(sampler, 'seed'):
            sampler.seed = self.seed

    def test(self) -> dict:
        self._is_testing = True
        return super().test()

    def val(self) -> dict:
        self._is_testing = True
        return super().val()


def _keep_torch_seeds(worker_id: int) -> None:
    """torch has seeded this worker's Python, numpy and torch already."""
