"""Train one network on many noisy images: objectives, the U-Net, data, the trainer, weights in files.

The bundles name what stands here as ``monai_dnaprior.training.NAME``; each name is imported when it is first used.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
