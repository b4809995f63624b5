"""mmengine's hook that keeps loss schedules at the epoch of training."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from shd_vit.distillation.schedule import LossSchedule, LossSchedules
from shd_vit.errors import ConfigError
from shd_vit.hosts.mmpretrain.hooks import unwrapped


@HOOKS.register_module()
class LossScheduleHook(Hook):
    """Keeps a distiller's loss schedules at the epoch that training is at.

    In loops by iteration an epoch is a pass over the data loader. Does nothing to models without
    schedules. DistillRunner registers it.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        loader = runner.train_dataloader
        for name, schedule in _schedules(runner).items():
            if not hasattr(loader, '__len__'):
                raise ConfigError(
                    f'model.losses.{name}.schedule counts epochs, but train_dataloader has no '
                    'length: use a data set or a loader that has one'
                )
            last = runner.max_iters / len(loader)
            for key in ('warm_up', 'decay_from', 'stop'):
                epoch = getattr(schedule, key)
                if epoch is not None and epoch > last:
                    runner.logger.warning(
                        f'model.losses.{name}.schedule.{key}={epoch} is after the end of training, '
                        f'at epoch {last:g}'
                    )

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        if _schedules(runner):
            # A loop by iteration stays in epoch 0 and counts its batches on.
            epoch = runner.epoch + batch_idx / len(runner.train_dataloader)
            unwrapped(runner.model).schedules.set_epoch(epoch)


def _schedules(runner) -> dict[str, LossSchedule]:
    schedules = getattr(unwrapped(runner.model), 'schedules', None)
    return schedules.schedules if isinstance(schedules, LossSchedules) else {}
