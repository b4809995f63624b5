# Fashion-MNIST pair, ViTKD + NKD. Train teacher.py first.
#
#   python tools/train.py configs/fashion_mnist/vitkd_nkd.py
_base_ = './_distiller.py'

model = dict(
    losses=dict(
        vitkd=dict(type='ViTKDLoss', student_dims=48, teacher_dims=96),
        nkd=dict(type='NKDLoss', gamma=1.0),
    )
)
work_dir = 'work_dirs/fashion_mnist/vitkd_nkd'
