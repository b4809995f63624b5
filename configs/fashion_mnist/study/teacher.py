# The study's teacher: trained ten times as long as its students, on shifted images.
#
#   python tools/train.py configs/fashion_mnist/study/teacher.py
_base_ = '../teacher.py'

train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=2),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
train_cfg = dict(max_epochs=20)
default_hooks = dict(checkpoint=dict(save_best=None))
work_dir = 'work_dirs/study/teacher'
