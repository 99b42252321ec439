"""Phantoms: data drawn from a known posterior, in the layout of a real dataset."""

from functools import partial

from datamodules.phantom.acdc import ACDC
from datamodules.phantom.brats import BRATS
from datamodules.phantom.flare import FLARE
from datamodules.phantom.posterior import Annotation, draw_labels, posterior
from datamodules.phantom.writer import Patient, Phantom, PhantomSettings, write_phantom
from datamodules.reading.posterior import load_posterior, save_posterior

__all__ = [
    "ACDC",
    "BRATS",
    "FLARE",
    "Annotation",
    "Patient",
    "Phantom",
    "PhantomSettings",
    "draw_labels",
    "load_posterior",
    "posterior",
    "save_posterior",
    "write_acdc_phantom",
    "write_brats_phantom",
    "write_flare_phantom",
    "write_phantom",
]

write_acdc_phantom = partial(write_phantom, ACDC)
write_brats_phantom = partial(write_phantom, BRATS)
write_flare_phantom = partial(write_phantom, FLARE)
