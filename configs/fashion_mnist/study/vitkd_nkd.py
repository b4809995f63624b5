# ViTKD + NKD.
#
#   python tools/train.py configs/fashion_mnist/study/vitkd_nkd.py
_base_ = './nkd.py'

model = dict(losses=dict(vitkd=dict(type='ViTKDLoss', student_dims=48, teacher_dims=96)))
work_dir = 'work_dirs/study/vitkd_nkd'
