# DeiT-Tiny from DeiT3-Small with ViTKD + NKD: Table 4, 77.79 top-1 in the paper.
#
#   tools/dist_train.sh configs/deit_tiny_vitkd_nkd.py 8
#
# 8 GPUs x 128 images = 1024 a step, 300 epochs.
_base_ = [
    './_base_/models/deit_tiny_from_deit3_small.py',
    './_base_/datasets/imagenet_ffcv.py',
    './_base_/schedules/deit_300e.py',
    './_base_/runtime.py',
]

model = dict(
    losses=dict(
        vitkd=dict(type='ViTKDLoss', student_dims=192, teacher_dims=384),
        nkd=dict(type='NKDLoss', gamma=1.0),
    )
)
