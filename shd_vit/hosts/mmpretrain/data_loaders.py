"""Data loaders that a dataloader dict of a config can name by ``type``."""

from mmengine.registry import Registry

# A config's default scope is mmpretrain's; a registry of another scope would be warned about.
DATA_LOADERS = Registry('data_loader', scope='mmpretrain')
