# The pair's teacher with its width cut into 12 heads, four for each head of a student.
#
#   python tools/train.py configs/fashion_mnist/study/teacher_12_heads.py
_base_ = '../teacher.py'

model = dict(backbone=dict(arch=dict(num_heads=12)))
work_dir = 'work_dirs/study/teacher_12_heads'
