# What the study's distilled rows share: student.py, and a teacher that was trained for long.
_base_ = '../_distiller.py'

model = dict(teacher=dict(checkpoint='work_dirs/study/teacher/epoch_20.pth'))
train_dataloader = dict(num_workers=0)  # as many runs as processors go side by side
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(save_best=None))
