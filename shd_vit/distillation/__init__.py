"""The order of events of a distillation, the same in every host."""

from shd_vit.distillation.step import bind_losses, settle_losses

__all__ = ['bind_losses', 'settle_losses']
