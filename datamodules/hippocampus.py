"""Hippocampus: task 4 of the Medical Segmentation Decathlon, 260 T1 MR crops of 35 x 50 x 36 mm.

Antonelli et al., "The Medical Segmentation Decathlon", Nature Communications 13:4128, 2022,
arXiv:1902.09063. CC BY-SA 4.0; images of Vanderbilt University Medical Center.
"""

import shutil
import uuid
from pathlib import Path
from typing import Any, ClassVar

from datamodules.cache.preprocessing import Preprocessing
from datamodules.case import DataError, Problem
from datamodules.files import DecathlonDataModule
from datamodules.parallel import console
from datamodules.settings import Sampling


class HippocampusDataModule(DecathlonDataModule):
    """Anterior and posterior hippocampus, a real benchmark of minutes; downloaded where needed.

    Args:
        root: The task's folder; None for ``data/Task04_Hippocampus``, downloaded if it is not
            there (27 MB).
        **settings: See :class:`~datamodules.files.FilesDataModule`.
    """

    url: ClassVar[str] = "https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar"
    md5: ClassVar[str] = "9d24dba78a72977dbd1d2e110310f31b"
    home: ClassVar[Path] = Path("data/Task04_Hippocampus")

    def __init__(self, root: Path | None = None, **settings: Any) -> None:
        dims = settings.get("spatial_dims") or 3
        size = (40, 56, 40)[:dims]
        defaults: dict[str, Any] = {
            "name": "hippocampus",
            "labels": {"background": 0, "anterior": 1, "posterior": 2},
            "channels": ["MRI"],
            "spatial_dims": dims,
            "preprocessing": Preprocessing(spacing=(1.0,) * dims),
            "sampling": Sampling(patch_size=size, crop="random", foreground=0.3333),
        }
        for name, value in defaults.items():
            if settings.get(name) is None:
                settings[name] = value
        super().__init__(self.home if root is None else root, **settings)

    @property
    def planned(self) -> dict[str, Any]:
        """The arguments that were chosen, and the folder."""
        return super().planned | {"root": None if self.root is None else str(self.root)}

    def provide(self, *, progress: bool) -> None:
        """Download the task if its default folder is not there.

        Raises:
            DataError: It cannot be downloaded.
        """
        if self.root == self.home and not (self.home / "dataset.json").is_file():
            download(self.url, self.md5, self.home, progress=progress)


def download(url: str, md5: str, folder: Path, *, progress: bool) -> None:
    """Download and unpack an archive with one folder, which becomes ``folder``.

    Raises:
        DataError: There is no network, the archive is not the expected one, or the disk is full.
    """
    from monai.apps import download_and_extract  # lazy: seldom needed

    console.print(f"Downloading {url} to {folder} (27 MB).", markup=False, highlight=False)
    incoming = folder.with_name(f".{folder.name}-{uuid.uuid4().hex[:8]}")
    try:
        incoming.mkdir(parents=True)
        archive = incoming / url.rpartition("/")[2]
        download_and_extract(
            url, archive, incoming, hash_val=md5, hash_type="md5", progress=progress
        )
        (incoming / folder.name).replace(folder)
    except Exception as error:  # monai and requests raise a dozen kinds
        raise DataError(
            [
                Problem(
                    "",
                    str(folder),
                    f"{folder.name} must be there or be downloaded from {url}",
                    str(error)[:160] or type(error).__name__,
                    f"Download it on another machine (MD5 {md5}), unpack it, and give the folder: "
                    f"DATA_ROOT=.../{folder.name}.",
                )
            ]
        ) from error
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
