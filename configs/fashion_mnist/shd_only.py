# Fashion-MNIST pair, SHD alone. Train teacher.py first.
#
#   python tools/train.py configs/fashion_mnist/shd_only.py
_base_ = './_distiller.py'

# compile: two epochs of tiny models are over before compiling would have paid.
model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0, compile=False)))
work_dir = 'work_dirs/fashion_mnist/shd_only'
