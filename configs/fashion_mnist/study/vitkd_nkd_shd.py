# ViTKD + NKD + SHD.
#
#   python tools/train.py configs/fashion_mnist/study/vitkd_nkd_shd.py
_base_ = './vitkd_nkd.py'

model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0, compile=False)))
work_dir = 'work_dirs/study/vitkd_nkd_shd'
