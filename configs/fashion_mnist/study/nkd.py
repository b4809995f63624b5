# NKD alone, on which the other methods of Table 5 build.
#
#   python tools/train.py configs/fashion_mnist/study/nkd.py
_base_ = './_distilled.py'

model = dict(losses=dict(nkd=dict(type='NKDLoss', gamma=1.0)))
work_dir = 'work_dirs/study/nkd'
