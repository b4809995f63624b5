# A small pair for 28x28 images: 16 patches of 7x7 and a class token; 4 layers, heads 16 wide.


def classifier(kind, heads, **backbone):
    width = 16 * heads
    return dict(
        type='ImageClassifier',
        backbone=dict(
            type=kind,
            arch=dict(
                embed_dims=width, num_layers=4, num_heads=heads, feedforward_channels=4 * width
            ),
            img_size=28,
            patch_size=7,
            in_channels=1,
            **backbone,
        ),
        neck=None,
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=10,
            in_channels=width,
            loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original'),
        ),
    )


# LayerScale starts at 1e-5, which a schedule of a few epochs would spend on growing it.
teacher = classifier('DeiT3', heads=6, layer_cfgs=dict(use_layer_scale=False))
student = classifier('VisionTransformer', heads=3)
