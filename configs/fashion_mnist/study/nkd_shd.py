# NKD + SHD.
#
#   python tools/train.py configs/fashion_mnist/study/nkd_shd.py
_base_ = './nkd.py'

model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0, compile=False)))
work_dir = 'work_dirs/study/nkd_shd'
