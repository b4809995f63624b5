# NKD + features through a projector.
#
#   python tools/train.py configs/fashion_mnist/study/nkd_projector.py
_base_ = './nkd.py'

model = dict(
    losses=dict(fd=dict(type='FeatureProjectorLoss', student_dims=48, teacher_dims=96, weight=0.03))
)
work_dir = 'work_dirs/study/nkd_projector'
