# Fashion-MNIST, 60,000 + 10,000 grey 28x28 images; tools/data/prepare_fashion_mnist.sh fetches it.
data_preprocessor = dict(num_classes=10, mean=[72.94], std=[90.02])

train_pipeline = [
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs'),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='FashionMNIST',
        data_root='data/fashion_mnist',
        split='train',
        download=False,
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FashionMNIST',
        data_root='data/fashion_mnist',
        split='test',
        test_mode=True,  # without it mmpretrain reads the training images, whatever the split
        download=False,
        pipeline=[dict(type='PackInputs')],
    ),
)
test_dataloader = val_dataloader
