# The 3-head student of the Fashion-MNIST pair, without distillation.
#
#   python tools/train.py configs/fashion_mnist/baseline.py
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime.py',
]

model = _base_.student
work_dir = 'work_dirs/fashion_mnist/baseline'
