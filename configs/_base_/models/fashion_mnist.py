# A small pair for 28x28 images: 16 patches of 7x7 and a class token; heads are 16 wide.
num_layers = 4
teacher = dict(
    type='ImageClassifier',
    backbone=dict(
        type='DeiT3',
        arch=dict(embed_dims=96, num_layers=num_layers, num_heads=6, feedforward_channels=4 * 96),
        img_size=28,
        patch_size=7,
        in_channels=1,
        # LayerScale starts at 1e-5, which a schedule of a few epochs would spend on growing it.
        layer_cfgs=dict(use_layer_scale=False),
    ),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=96,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
student = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=48, num_layers=num_layers, num_heads=3, feedforward_channels=4 * 48),
        img_size=28,
        patch_size=7,
        in_channels=1,
    ),
    neck=None,
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=48,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
    ),
)
