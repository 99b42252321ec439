"""Networks that monai does not have (it has the others, by ``class_path``), and a trial of any."""

from mbls.networks.paper_unet import PaperUNet

__all__ = ["PaperUNet"]
