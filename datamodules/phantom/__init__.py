"""Phantoms: data drawn from a known posterior, in the layout of the dataset they stand in for."""

from datamodules.phantom.acdc import DEFAULT_PATIENTS, write_acdc_phantom
from datamodules.phantom.annotator import Annotation, draw_labels, posterior
from datamodules.phantom.brats import write_brats_phantom
from datamodules.phantom.brats_settings import BrainPhantom
from datamodules.phantom.flare import write_flare_phantom
from datamodules.phantom.flare_settings import AbdomenPhantom
from datamodules.phantom.patient import Patient, make_patient
from datamodules.phantom.settings import CardiacPhantom
from datamodules.reading.posterior import load_posterior, save_posterior

__all__ = [
    "DEFAULT_PATIENTS",
    "AbdomenPhantom",
    "Annotation",
    "BrainPhantom",
    "CardiacPhantom",
    "Patient",
    "draw_labels",
    "load_posterior",
    "make_patient",
    "posterior",
    "save_posterior",
    "write_acdc_phantom",
    "write_brats_phantom",
    "write_flare_phantom",
]
