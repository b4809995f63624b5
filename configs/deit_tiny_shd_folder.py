# deit_tiny_shd.py, trained from data/imagenet/train itself: no FFCV needed, and slower to load.
#
#   tools/dist_train.sh configs/deit_tiny_shd_folder.py 8
_base_ = './deit_tiny_shd.py'

train_dataloader = dict(_delete_=True, **_base_.folder_train_dataloader)
