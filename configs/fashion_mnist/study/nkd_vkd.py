# NKD + V_kD.
#
#   python tools/train.py configs/fashion_mnist/study/nkd_vkd.py
_base_ = './nkd.py'

model = dict(losses=dict(vkd=dict(type='VkDLoss', student_dims=48, teacher_dims=96, weight=3.0)))
work_dir = 'work_dirs/study/nkd_vkd'
