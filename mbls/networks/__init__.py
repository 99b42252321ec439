"""Networks that monai does not have; the others come from monai by ``class_path``."""

from mbls.networks.paper_unet import PaperUNet

__all__ = ["PaperUNet"]
