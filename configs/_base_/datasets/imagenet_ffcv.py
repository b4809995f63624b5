# ImageNet-1k with the DeiT augmentation: trained from a .beton file, evaluated from the folder.
#
#   python tools/data/write_ffcv.py data/imagenet/train.beton --imagenet-folder data/imagenet/train
_base_ = './imagenet_folder.py'

# For configs that train from the folder after all; deit_tiny_shd_folder.py is one.
folder_train_dataloader = _base_.train_dataloader

train_dataloader = dict(
    _delete_=True,
    type='FFCVLoader',
    beton='data/imagenet/train.beton',
    batch_size=128,
    drop_last=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    pipeline=_base_.train_pipeline,
)
