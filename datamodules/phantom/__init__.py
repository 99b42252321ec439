"""Phantoms: data drawn from a known posterior, in the layout of the dataset they stand in for."""

from datamodules.phantom.acdc import DEFAULT_PATIENTS, write_acdc_phantom
from datamodules.phantom.annotator import Annotation, draw_labels, posterior
from datamodules.phantom.patient import Patient, make_patient
from datamodules.phantom.settings import CardiacPhantom
from datamodules.posterior import load_posterior, save_posterior

__all__ = [
    "DEFAULT_PATIENTS",
    "Annotation",
    "CardiacPhantom",
    "Patient",
    "draw_labels",
    "load_posterior",
    "make_patient",
    "posterior",
    "save_posterior",
    "write_acdc_phantom",
]
