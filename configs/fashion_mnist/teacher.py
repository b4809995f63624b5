# The 6-head teacher of the Fashion-MNIST pair.
#
#   python tools/train.py configs/fashion_mnist/teacher.py
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime.py',
]

model = _base_.teacher
work_dir = 'work_dirs/fashion_mnist/teacher'
train_cfg = dict(max_epochs=6)
