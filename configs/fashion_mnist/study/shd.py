# SHD alone.
#
#   python tools/train.py configs/fashion_mnist/study/shd.py
_base_ = './_distilled.py'

model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0, compile=False)))
work_dir = 'work_dirs/study/shd'
