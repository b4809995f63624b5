# DeiT-Tiny from DeiT3-Small with ViTKD + NKD + SHD: Table 4's best row, 78.21 top-1 in the paper.
#
#   tools/dist_train.sh configs/deit_tiny_shd.py 8
#
# 8 GPUs x 128 images = 1024 a step, 300 epochs. Another number of GPUs: --auto-scale-lr, or
# --cfg-options train_dataloader.batch_size=... so that the product stays 1024.
_base_ = './deit_tiny_vitkd_nkd.py'

model = dict(losses=dict(shd=dict(type='SHDLoss', beta=1.0, temperature=1.0)))
