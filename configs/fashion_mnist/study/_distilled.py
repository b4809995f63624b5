# What the study's distilled rows share: student.py, and the pair's teacher.
_base_ = '../_distiller.py'

train_dataloader = dict(
    num_workers=0,  # as many runs as processors go side by side
    dataset=dict(indices=30_000),
)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(save_best=None))
