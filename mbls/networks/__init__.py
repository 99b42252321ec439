"""Networks that monai does not have (the others come from it by ``class_path``), and a trial run."""

from mbls.networks.paper_unet import PaperUNet

__all__ = ["PaperUNet"]
