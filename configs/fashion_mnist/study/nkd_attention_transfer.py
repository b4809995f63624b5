# NKD + the mean of all attention maps.
#
#   python tools/train.py configs/fashion_mnist/study/nkd_attention_transfer.py
_base_ = './nkd.py'

model = dict(losses=dict(at=dict(type='AttentionTransferLoss', weight=10.0)))
work_dir = 'work_dirs/study/nkd_attention_transfer'
