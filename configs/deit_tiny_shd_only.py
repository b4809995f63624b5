# DeiT-Tiny from DeiT3-Small with SHD alone: Table 4, 75.38 top-1 in the paper.
#
#   tools/dist_train.sh configs/deit_tiny_shd_only.py 8
#
# 8 GPUs x 128 images = 1024 a step, 300 epochs.
_base_ = [
    './_base_/models/deit_tiny_from_deit3_small.py',
    './_base_/datasets/imagenet_ffcv.py',
    './_base_/schedules/deit_300e.py',
    './_base_/runtime.py',
]

model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0)))
