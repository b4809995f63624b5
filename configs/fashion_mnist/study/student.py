# The study's student on its own: three epochs of the first half of the training images.
#
#   python tools/train.py configs/fashion_mnist/study/student.py
_base_ = '../baseline.py'

train_dataloader = dict(
    num_workers=0,  # as many runs as processors go side by side
    dataset=dict(indices=30_000),
)
val_dataloader = dict(num_workers=0)
test_dataloader = dict(num_workers=0)
train_cfg = dict(max_epochs=3, val_interval=3)
default_hooks = dict(checkpoint=dict(save_best=None))
work_dir = 'work_dirs/study/student'
