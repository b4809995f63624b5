# DeiT-Tiny without distillation: Table 4, 74.43 top-1 in the paper.
#
#   tools/dist_train.sh configs/deit_tiny_baseline.py 8
#
# 8 GPUs x 128 images = 1024 a step, 300 epochs.
_base_ = [
    './_base_/models/deit_tiny.py',
    './_base_/datasets/imagenet_ffcv.py',
    './_base_/schedules/deit_300e.py',
    './_base_/runtime.py',
]

model = dict(_base_.student, train_cfg=_base_.batch_augments)
