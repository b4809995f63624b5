# NKD + self-correlation of features.
#
#   python tools/train.py configs/fashion_mnist/study/nkd_self_correlation.py
_base_ = './nkd.py'

model = dict(losses=dict(cor=dict(type='SelfCorrelationLoss', weight=10.0)))
work_dir = 'work_dirs/study/nkd_self_correlation'
