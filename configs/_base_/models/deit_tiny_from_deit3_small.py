# The paper's pair: DeiT3-Small (6 heads, 384 wide) teaches DeiT-Tiny (3 heads, 192 wide).
_base_ = './deit_tiny.py'

model = dict(
    type='ViTDistiller',
    student=_base_.student,
    # Trained on ImageNet-1k alone, 81.35 top-1; of the two public ones nearest the paper's 80.69.
    teacher=dict(
        config='mmpretrain::deit3/deit3-small-p16_64xb64_in1k.py',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/deit3/'
        'deit3-small-p16_3rdparty_in1k_20221008-0f7c70cf.pth',
    ),
    train_cfg=_base_.batch_augments,
)
