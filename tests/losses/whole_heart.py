"""A binary task: ACDC's three structures as one foreground class."""

from dataclasses import replace
from pathlib import Path

from datamodules import ACDCDataModule
from datamodules.case import Survey


class WholeHeart(ACDCDataModule):
    """ACDC with one foreground class; without the phantom's posterior, which has four."""

    num_classes = 2
    class_names = ("background", "heart")
    class_keys = ("background", "heart")
    label_map = {0: 0, 1: 1, 2: 1, 3: 1}  # noqa: RUF012 - a fact, never changed

    def discover(self, root: Path) -> Survey:
        survey = super().discover(root)
        return replace(survey, cases=tuple(replace(case, posterior=None) for case in survey.cases))
