# What the distilled rows of the Fashion-MNIST pair share.
_base_ = [
    '../_base_/models/fashion_mnist.py',
    '../_base_/datasets/fashion_mnist.py',
    '../_base_/schedules/fashion_mnist.py',
    '../_base_/runtime.py',
]

model = dict(
    type='ViTDistiller',
    student=_base_.student,
    teacher=dict(
        config=_base_.teacher,
        checkpoint='work_dirs/fashion_mnist/teacher/epoch_6.pth',
    ),
)
