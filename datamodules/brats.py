"""BraTS, the Brain Tumor Segmentation challenge: MRI of gliomas in four modalities.

Menze et al., "The Multimodal Brain Tumor Image Segmentation Benchmark (BRATS)", IEEE TMI 34(10),
2015, doi 10.1109/TMI.2014.2377694; Bakas et al., Scientific Data 4, 2017, doi
10.1038/sdata.2017.117; Bakas et al., arXiv 1811.02629, 2018; Baid et al., arXiv 2107.02314, 2021.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

from datamodules.base import SegmentationDataModule
from datamodules.case import Case, LabelScheme, Survey
from datamodules.layouts.brats_releases import ENDINGS, survey_brats
from datamodules.layouts.inputs import group_inputs
from datamodules.reading.nifti import stem

Scheme = Literal["by_name", "et4", "et3", "et3_cavity", "nnunet"]

_SET = "--data.init_args.label_scheme"
_NECROSIS, _OEDEMA, _ENHANCING, _CAVITY = 1, 2, 3, 4
_VALUES: dict[str, dict[int, int]] = {
    "et4": {0: 0, 1: _NECROSIS, 2: _OEDEMA, 4: _ENHANCING},
    "et3": {0: 0, 1: _NECROSIS, 2: _OEDEMA, 3: _ENHANCING},
    "et3_cavity": {0: 0, 1: _NECROSIS, 2: _OEDEMA, 3: _ENHANCING, 4: _CAVITY},
    "nnunet": {0: 0, 1: _OEDEMA, 2: _NECROSIS, 3: _ENHANCING},
}
_FIXES = {
    "et4": "Until 2021 BraTS stores enhancing tumor as 4. If these files have 3, set: "
    f"{_SET} et3; if nnU-Net wrote them (1 is edema, 2 necrosis): {_SET} nnunet.",
    "et3": "From 2023 on BraTS stores enhancing tumor as 3. If 4 is the resection cavity (2024): "
    f"{_SET} et3_cavity; if it is enhancing tumor: {_SET} et4.",
    "et3_cavity": f"Set the meaning of the values with {_SET} et4, et3 or nnunet.",
    "nnunet": f"Set the meaning of the values with {_SET} et4, et3 or et3_cavity.",
}


class BraTSDataModule(SegmentationDataModule):
    """Gliomas before treatment (2018 to 2021, 2023) or after it (2024), in four modalities.

    Channels are T1, T1 after contrast, T2 and FLAIR, in this order. Without ``root``, the phantom
    in BraTS's layout is written to ``phantom_root`` and used.

    Args:
        root: The folder of a release, or its parent.
        label_scheme: What the values of the label files mean. ``by_name``: as the release has them
            derived from the file names: enhancing tumor 4 until 2021 (``_t1ce``) and 3 from 2023 on
            (``-t1c``). ``et4`` and ``et3`` override this. ``et3_cavity``: 2024's, with
            the resection cavity 4 as a separate class. ``nnunet``: 1 edema, 2 necrosis, 3
            enhancing tumor. A file with another value is an error.
        phantom_seed: Seed of the phantom.
        phantom_patients: Number of patients in its parts; None for 16 train, 4 val, 6 test.
        phantom_release: Whose layout, names and label values it has.
        phantom_full_size: If True, the phantom has BraTS's 240 x 240 x 155 voxels of 1 mm instead
            of a small one.
        **settings: See :class:`~datamodules.base.SegmentationDataModule`.

    Raises:
        ValueError: An unknown scheme or release, or another setting out of its range.
    """

    dataset = "brats"
    num_classes = 4
    class_names: tuple[str, ...] = ("background", "necrosis", "oedema", "enhancing tumour")
    class_keys: tuple[str, ...] = ("background", "ncr", "ed", "et")
    in_channels = 4
    phantom_of = "BraTS"
    modalities = ("T1", "T1 contrast", "T2", "FLAIR")
    unions = {  # noqa: RUF012 - facts, never changed
        "ET": (_ENHANCING,),
        "TC": (_NECROSIS, _ENHANCING),
        "WT": (_NECROSIS, _OEDEMA, _ENHANCING),
    }
    label_map = _VALUES["et4"] | _VALUES["et3"]
    zero_background = True

    def __init__(
        self,
        root: Path | None = None,
        *,
        label_scheme: Scheme = "by_name",
        phantom_seed: int = 0,
        phantom_patients: dict[str, int] | None = None,
        phantom_release: Literal["2018", "2019", "2020", "2021", "2023", "2024"] = "2021",
        phantom_full_size: bool = False,
        **settings: Any,
    ) -> None:
        if label_scheme not in get_args(Scheme):
            names = ", ".join(get_args(Scheme))
            raise ValueError(f"label_scheme must be one of {names}, got {label_scheme!r}.")
        self.label_scheme = label_scheme
        if label_scheme != "by_name":
            self.label_map = _VALUES[label_scheme]
        if label_scheme == "et3_cavity":
            self.num_classes = 5
            self.class_names = (*type(self).class_names, "resection cavity")
            self.class_keys = (*type(self).class_keys, "rc")
        super().__init__(root, **settings)
        self.phantom_seed = phantom_seed
        self.phantom_patients = dict(phantom_patients or {"train": 16, "val": 4, "test": 6})
        self.phantom_release, self.phantom_full_size = phantom_release, phantom_full_size

    def discover(self, root: Path) -> Survey:
        """Find the cases; see the README of this folder for what the download may look like."""
        return survey_brats(root, old=self._scheme(new=False), new=self._scheme(new=True))

    def input_cases(self, path: Path) -> list[Case]:
        """Return the cases to predict: a folder with the four images of each."""
        return [
            replace(case, scheme=self._scheme(new=stem(case.images[0]).endswith(ENDINGS[0][1])))
            for case in group_inputs(path, ENDINGS)
        ]

    def write_phantom(self, folder: Path, *, progress: bool) -> None:
        """Write the phantom unless it is there."""
        from datamodules.phantom import PhantomSettings, write_brats_phantom  # only where needed

        release, full_size = self.phantom_release, self.phantom_full_size
        write_brats_phantom(
            folder,
            patients=self.phantom_patients,
            settings=PhantomSettings(release=release, full_size=full_size),
            seed=self.phantom_seed,
            workers=self.preparer.workers,
            progress=progress,
        )

    def _scheme(self, *, new: bool) -> LabelScheme:
        """Return what labels mean where files are named as from 2023 on, or as before."""
        name: str = self.label_scheme
        if name == "by_name":
            name = "et3" if new else "et4"
        return LabelScheme(tuple(sorted(_VALUES[name].items())), _FIXES[name])
