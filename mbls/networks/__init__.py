"""Networks that monai lacks (use monai's others by ``class_path``), and a check of patch sizes."""

from mbls.networks.nnunet import NNUNet
from mbls.networks.paper_unet import PaperUNet

__all__ = ["NNUNet", "PaperUNet"]
