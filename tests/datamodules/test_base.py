"""The datamodule as a whole: batches, order, restoring, prediction, fingerprint."""

import hashlib
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import lightning
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator

from datamodules import ACDCDataModule, Augmentation, DataError
from datamodules.case import Case
from datamodules.loading.datasets import VolumeDataset
from datamodules.origin import phantom_home, refuse_hidden_phantom
from datamodules.reading.posterior import save_posterior
from datamodules.settings import TrainerError
from tests.datamodules.conftest import AFFINE, blobs, save
from tests.grouped import grouped

STRONG = Augmentation(flip=0.5, rotation=30, scale=0.3, gamma=0.5, noise=0.2)


def ready(built: ACDCDataModule, stage: str = "fit") -> ACDCDataModule:
    built.prepare(progress=False)
    built.setup(stage)
    return built


def digest(loader) -> list[str]:
    """One hash for each batch, over image, label and names."""
    return [
        hashlib.sha256(
            batch["image"].numpy().tobytes()
            + batch["label"].numpy().tobytes()
            + repr(batch["case"]).encode()
        ).hexdigest()
        for batch in loader
    ]


def test_training_batch(module) -> None:
    built = ready(module(patch_size=(16, 32)))
    batch = next(iter(built.train_dataloader()))
    assert batch["image"].shape == (4, 1, 16, 32)
    assert batch["image"].dtype == torch.float32
    assert batch["label"].shape == (4, 16, 32)
    assert batch["label"].dtype == torch.int64
    assert set(batch["label"].unique().tolist()) == {-100, 0, 1, 2, 3}
    padded = batch["label"] == -100
    assert padded[:, :, :4].all()
    assert padded[:, :, 28:].all()
    assert not padded[:, :, 4:28].any()
    assert (batch["image"][:, 0][padded] == 0).all()
    assert batch["spacing"].tolist() == [[1.5, 1.5]] * 4
    assert batch["scored"].tolist() == [True] * 4
    names = built.cases("train")
    assert batch["case"] == [names[index] for index in batch["index"]]
    assert "posterior" not in batch


def test_every_slice_of_every_case_is_visited(module) -> None:
    built = ready(module(batch_size=1))
    cases = [name for batch in built.train_dataloader() for name in batch["case"]]
    assert sorted(cases) == sorted(4 * built.cases("train"))


def test_volumes_are_the_files(acdc: Path, module) -> None:
    built = ready(module())
    for loader, part in ((built.val_dataloader(), "val"), (built.test_dataloader(), "test")):
        batches = list(loader)
        assert [batch["case"][0] for batch in batches] == built.cases(part)
        assert [int(batch["index"]) for batch in batches] == list(range(len(batches)))
        for batch in batches:
            (name,) = batch["case"]
            (image,) = acdc.glob(f"*/*/{name}.nii.gz")
            (label,) = acdc.glob(f"*/*/{name}_gt.nii.gz")
            voxels = nib.load(image).get_fdata()
            expected = (voxels - voxels.mean()) / voxels.std()
            np.testing.assert_allclose(batch["image"][0, 0], expected, atol=1e-5)
            np.testing.assert_array_equal(batch["label"][0], nib.load(label).get_fdata())
            assert batch["spacing"].tolist() == [[1.5, 1.5, 10.0]]
            assert batch["scored"].tolist() == [True]


def test_no_patient_in_two_parts(module) -> None:
    built = module()
    parts = [{name[:10] for name in built.cases(part)} for part in ("train", "val", "test")]
    assert all(parts)
    assert sum(map(len, parts)) == len(set.union(*parts)) == 10
    assert parts[2] == {"patient101", "patient102"}


def test_posterior_is_in_evaluation_batches(acdc: Path, module) -> None:
    (acdc.parent / "phantom.json").write_text("{}")
    (acdc.parent / "split.json").write_text(
        '{"train": ["patient002"], "val": ["patient001"], "test": ["patient101"]}'
    )
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(4), (20, 24, 4)).transpose(3, 0, 1, 2)
    for path in acdc.glob("*/*/*_gt.nii.gz"):
        folder = acdc.parent / "posterior" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        save_posterior(folder / path.name.replace("_gt.nii.gz", ".npz"), probs)
    built = ready(module(orientation="RAS"))
    batch = next(iter(built.val_dataloader()))
    assert batch["posterior"].shape == (1, 4, 20, 24, 4)
    np.testing.assert_allclose(batch["posterior"][0], probs[:, ::-1, ::-1], atol=1e-4)
    np.testing.assert_allclose(batch["posterior"].sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"augmentation": STRONG, "crop": "random"}])
def test_order_and_draws_repeat_for_any_number_of_workers(module, settings: dict) -> None:
    first = digest(ready(module(**settings)).train_dataloader())
    assert digest(ready(module(**settings)).train_dataloader()) == first
    workers = ready(module(**settings, num_workers=2)).train_dataloader()
    assert digest(workers) == first
    workers.batch_sampler.set_epoch(1)  # workers that live on learn of the epoch
    other = ready(module(**settings)).train_dataloader()
    other.batch_sampler.set_epoch(1)
    assert digest(workers) == digest(other) != first
    assert digest(ready(module(**settings, seed=1)).train_dataloader()) != first


def test_start_in_the_middle(module) -> None:
    built = ready(module(augmentation=STRONG))
    whole = digest(built.train_dataloader())
    built.start = (0, 3)
    loader = built.train_dataloader()
    assert len(loader) == len(whole)
    assert digest(loader) == whole[3:]


def samples_of_rank(rank: int, world: int, root: Path, cache: Path, port: int, results) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=world)
    built = ACDCDataModule(root, **grouped(cache_dir=cache, patch_size=(16, 16), val_fraction=0.3))
    built.augmentation = STRONG
    built.setup("fit")
    train = [batch["image"].sum((1, 2, 3)).tolist() for batch in built.train_dataloader()]
    val = [(batch["case"][0], bool(batch["scored"])) for batch in built.val_dataloader()]
    results[rank] = train, val
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_two_ranks_see_what_one_sees(acdc: Path, module, tmp_path: Path) -> None:
    built = ready(module(augmentation=STRONG))
    alone = [batch["image"].sum((1, 2, 3)).tolist() for batch in built.train_dataloader()]
    with mp.get_context("fork").Manager() as manager:
        results = manager.dict()
        port = 20000 + os.getpid() % 20000
        arguments = (2, acdc, tmp_path / "cache", port, results)
        mp.start_processes(samples_of_rank, arguments, nprocs=2, start_method="fork")
        ranks = [results[0], results[1]]
    assert [a + b for a, b in zip(ranks[0][0], ranks[1][0], strict=True)] == alone
    assert len(ranks[0][1]) == len(ranks[1][1])
    scored = [name for rank in ranks for name, counts in rank[1] if counts]
    assert sorted(scored) == built.cases("val")


@pytest.mark.parametrize("orientation", ["LPS", "RAS", None])
def test_restore_gives_the_native_grid(acdc: Path, module, orientation: str | None) -> None:
    built = ready(module(orientation=orientation))
    batch = next(iter(built.test_dataloader()))
    (name,) = batch["case"]
    (path,) = acdc.glob(f"*/*/{name}_gt.nii.gz")
    logits = torch.nn.functional.one_hot(batch["label"], 4).movedim(-1, 1).float()
    native, affine = built.restore(name, logits[0])
    np.testing.assert_array_equal(native.argmax(0), nib.load(path).get_fdata())
    np.testing.assert_array_equal(affine, AFFINE)
    assert native.dtype == torch.float32


def test_restore_after_resampling(acdc: Path, module) -> None:
    built = ready(module(spacing=(0.75, 0.75)))
    batch = next(iter(built.test_dataloader()))
    (name,) = batch["case"]
    assert batch["image"].shape == (1, 1, 40, 48, 4)
    assert batch["spacing"].tolist() == [[0.75, 0.75, 10.0]]
    (path,) = acdc.glob(f"*/*/{name}_gt.nii.gz")
    logits = torch.nn.functional.one_hot(batch["label"], 4).movedim(-1, 1).float()
    native, affine = built.restore(name, logits[0])
    np.testing.assert_array_equal(native.argmax(0), nib.load(path).get_fdata())
    np.testing.assert_array_equal(affine, AFFINE)
    with pytest.raises(ValueError, match="must be a case of acdc's split, got 'patient000'"):
        built.restore("patient000", logits[0])


def test_predict_a_file_with_the_header_fault(tmp_path: Path, module) -> None:
    """Nothing else is needed: no root, no cache. The affine that comes back is the file's."""
    image = nib.Nifti1Image(blobs(0)[0], AFFINE)
    unit = np.diag([-1.0, -1.0, 1.0, 1.0])
    image.set_qform(AFFINE, code=1, update_affine=False)
    image.set_sform(unit, code=1)
    nib.save(image, tmp_path / "mine.v2.nii.gz")
    built = module(None, predict_input=tmp_path / "mine.v2.nii.gz", spacing=(1.0, 1.0))
    built.prepare_data()
    built.setup("predict")
    (batch,) = built.predict_dataloader()
    assert batch["case"] == built.cases("predict") == ["mine.v2"]
    assert batch["image"].shape == (1, 1, 30, 36, 4)
    assert batch["spacing"].tolist() == [[1, 1, 10]]
    assert (batch["label"] == -100).all()
    logits, affine = built.restore("mine.v2", torch.zeros(4, 30, 36, 4))
    assert logits.shape == (4, 20, 24, 4)
    np.testing.assert_array_equal(affine, unit)
    assert built.origin == "real"
    assert not (tmp_path / "cache").exists()


def test_predict_a_folder(acdc: Path, module) -> None:
    folder = acdc / "training" / "patient001"
    save(folder / "patient001_4d.nii.gz", np.zeros((2, 2, 2, 2), np.int16))
    (folder / "results.nii.gz").mkdir()
    built = module(None, predict_input=folder)
    assert built.cases("predict") == ["patient001_frame01", "patient001_frame09"]
    (acdc.parent / "phantom.json").write_text("{}")
    assert built.origin == "phantom"


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("nowhere", "the input must exist, found no such file"),
        ("Info.cfg", "must be an image, found Info.cfg"),
        (".", "must contain images to predict, found Info.cfg"),
    ],
)
def test_predict_nothing(tmp_path: Path, module, name: str, match: str) -> None:
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "Info.cfg").touch()
    with pytest.raises(DataError, match=match):
        module(None, predict_input=tmp_path / "input" / name).cases("predict")


def test_predict_two_of_one_name(tmp_path: Path, module) -> None:
    for suffix in (".nii", ".nii.gz"):
        save(tmp_path / f"a{suffix}", blobs(0)[0])
    with pytest.raises(DataError, match="a unique name, found a in"):
        module(None, predict_input=tmp_path).predict_dataloader()


def test_predict_a_bad_file(tmp_path: Path, module) -> None:
    save(tmp_path / "a.nii", np.zeros((4, 5, 6), np.int16))
    loader = module(None, predict_input=tmp_path / "a.nii").predict_dataloader()
    with pytest.raises(DataError, match="a: the image must not be constant"):
        next(iter(loader))


def test_predict_a_stack_that_would_be_cut_across(tmp_path: Path, module) -> None:
    """A short-axis stack in the patient's coordinates, its slices nearest to the left."""
    turned = np.array([[0, 0, 9, 0], [-1.5, 0, 0, 0], [0, -1.5, 0, 0], [0, 0, 0, 1.0]])
    path = save(tmp_path / "a.nii.gz", blobs(0)[0], turned)
    with pytest.raises(DataError, match=r"last axis of orientation LPS, found 9 mm .* along R"):
        next(iter(module(None, predict_input=path).predict_dataloader()))
    built = module(None, predict_input=path, orientation=None)
    batch = next(iter(built.predict_dataloader()))
    assert batch["spacing"].tolist() == [[1.5, 1.5, 9]]
    _, affine = built.restore("a", torch.zeros(4, 20, 24, 4))
    np.testing.assert_array_equal(affine, turned)


def test_predict_without_input_is_the_test_part(module) -> None:
    built = ready(module(), "predict")
    names = [batch["case"][0] for batch in built.predict_dataloader()]
    assert names == built.cases("predict") == built.cases("test")


def test_fingerprint(acdc: Path, module, tmp_path: Path) -> None:
    first = ready(module()).fingerprint
    assert ready(module()).fingerprint == first
    assert ready(module(cache_dir=tmp_path / "other", patch_size=(8, 8))).fingerprint == first
    changed = {"spacing": (1.0, 1.0), "normalize": "percentile", "fold": 1, "orientation": "RAS"}
    others = [ready(module(**{name: value})).fingerprint for name, value in changed.items()]
    acdc.parent.rename(tmp_path / "elsewhere")
    assert ready(module(tmp_path / "elsewhere")).fingerprint == first
    path = tmp_path / "elsewhere/database/testing/patient101/patient101_frame01.nii.gz"
    save(path, blobs(7)[0])
    others.append(ready(module(tmp_path / "elsewhere")).fingerprint)
    assert len({first, *others}) == 6


def test_cached_cases_are_not_read_again(acdc: Path, module, monkeypatch) -> None:
    ready(module())
    monkeypatch.setattr("datamodules.cache.preparation.read_case", None)  # calling it would raise
    ready(module())


def test_setup_without_prepare(module) -> None:
    with pytest.raises(DataError, match=r"cases missing .*Call prepare\(\) first"):
        module().setup("fit")


def test_slices_come_from_the_map(module) -> None:
    """A change of the mapped file shows in the next sample: nothing was kept in memory."""
    built = ready(module(batch_size=1))
    dataset = built.train_dataset()
    stored = dataset.cases[0].arrays["image"]
    before = dataset[(0, 0, False)]["image"]
    assert before.abs().sum() > 0
    with open(stored.path, "r+b") as file:  # noqa: PTH123 - to write in place
        file.seek(stored.offset)
        file.write(bytes(np.prod(stored.shape[1:]) * 4))
    assert dataset[(0, 0, False)]["image"].abs().sum() == 0
    assert dataset[(0, 1, False)]["image"].abs().sum() > 0


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"fold": 5}, r"fold must be null or in 0\.\.4, got 5"),
        ({"val_fraction": 0.9}, "must be >= 0 and leave a share"),
        ({"patch_size": (16, 16, 16)}, "patch_size must have 2 values"),
        ({"patch_size": (0, 16)}, "patch_size must be positive"),
        ({"spacing": (1.0,)}, "spacing must have 2 values"),
        ({"crop": "left"}, "crop must be center or random, got 'left'"),
        ({"batch_size": 0}, "batch_size must be >= 1, got 0"),
        ({"num_workers": -1}, "num_workers must be >= 0, got -1"),
        ({"prepare_workers": 0}, "prepare_workers must be >= 1, got 0"),
        ({"seed": -1}, "seed must be >= 0, got -1"),
    ],
)
def test_bad_settings(settings: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        ACDCDataModule(**grouped(**settings))


@pytest.mark.parametrize("classes", [254, 255, 300])
def test_labels_have_room_for_so_many_classes(classes: int, tmp_path: Path) -> None:
    class Parcels(ACDCDataModule):
        num_classes = classes
        label_map = {k: k for k in range(classes)}  # noqa: RUF012

    if classes == 254:
        Parcels(phantom_root=tmp_path)
        return
    with pytest.raises(ValueError, match=f"num_classes must be at most 254, got {classes}"):
        Parcels(phantom_root=tmp_path)


def test_a_batch_larger_than_the_training_part(module) -> None:
    built = module(batch_size=200)
    built.prepare(progress=False)
    built.setup("test")
    samples = len(built.train_dataset())
    with pytest.raises(DataError, match=f"batch_size 200 and {samples} training samples"):
        built.setup("fit")
    ready(module(batch_size=samples))


def test_of_several_values_of_a_class_one_is_written(module) -> None:
    built = module()
    built.label_map = {-1: 0, 0: 0, 5: 1, 1: 1, -3: 2, 3: 3}
    assert built.label_values(built.cases("test")[0]) == (0, 1, -3, 3)


def test_unknown_part(module) -> None:
    with pytest.raises(ValueError, match="train, val, test or predict, got 'valid'"):
        module().cases("valid")


def test_phantom_home(tmp_path: Path) -> None:
    assert phantom_home(tmp_path) is None
    (tmp_path / "phantom.json").touch()
    assert phantom_home(tmp_path / "database" / "training") == tmp_path


@pytest.mark.parametrize("link", ["data", "data/patient001", "data/patient001/image.nii.gz"])
def test_a_phantom_behind_a_link(tmp_path: Path, link: str) -> None:
    """By its folder's link it is known as one; of links to its cases it is refused."""
    home, root = tmp_path / "phantom", tmp_path / "data"
    (home / link).parent.mkdir(parents=True)
    (home / "phantom.json").touch()
    (tmp_path / link).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / link).symlink_to(home / link)
    case = Case("1", "1", (root / "patient001" / "image.nii.gz",))
    if link == "data":
        assert phantom_home(root) == home
        refuse_hidden_phantom(root, [case])
        return
    assert phantom_home(root) is None
    with pytest.raises(DataError, match=f"a phantom must be given by its own .*one in {home}"):
        refuse_hidden_phantom(root, [case])


def test_no_root_is_the_phantom_and_is_named_so(
    tmp_path: Path, module, capsys, monkeypatch
) -> None:
    built = module(
        None,
        phantom_root=tmp_path / "phantom",
        phantom_patients={"train": 1, "val": 1, "test": 1},
        prepare_workers=1,
    )
    built.prepare(progress=False)
    built.prepare(progress=False)
    text = " ".join(capsys.readouterr().err.split())
    assert text.count("No DATA_ROOT given") == 1
    assert "it is not ACDC" in text
    built.setup("fit")
    assert built.origin == "phantom"
    assert [len(built.cases(part)) for part in ("train", "val", "test")] == [2, 2, 2]
    batch = next(iter(built.val_dataloader()))
    np.testing.assert_allclose(batch["posterior"].sum(1), 1, atol=1e-6)
    assert batch["posterior"].argmax(1).eq(batch["label"]).float().mean() > 0.9
    other = module(None, phantom_root=tmp_path / "phantom", phantom_seed=1)
    with pytest.raises(DataError, match=r"--data\.init_args\.phantom_root"):
        other.prepare(progress=False)
    (tmp_path / "file").touch()
    blocked = module(None, phantom_root=tmp_path / "file" / "phantom")
    with pytest.raises(DataError, match=r"found The phantom cannot be written: Not a directory \("):
        blocked.prepare(progress=False)


class Recorder(lightning.LightningModule):
    """Trains nothing and notes the order of what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[float]]] = []

    def training_step(self, batch, number: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch["image"].sum((1, 2, 3)).tolist()))
        return self.weight * batch["image"].mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("accelerator", [CPUAccelerator, CUDAAccelerator])
def test_memory_is_pinned_where_the_run_uses_cuda(accelerator: type, module, monkeypatch) -> None:
    """Not where a machine has a GPU and the run leaves it alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    built = ready(module())
    pinned = accelerator is CUDAAccelerator
    trainer = SimpleNamespace(accelerator=accelerator(), current_epoch=0)
    for built.trainer in (None, trainer):  # type: ignore[assignment]
        loaders = [getattr(built, f"{part}_dataloader")() for part in ("train", "val", "test")]
        found = {loader.pin_memory for loader in (*loaders, built.predict_dataloader())}
        assert found == {pinned and built.trainer is not None}


def test_the_next_volume_is_loaded_while_one_is_scored(module) -> None:
    built = ready(module())
    threads = []
    read = VolumeDataset.__getitem__

    class Noted(VolumeDataset):
        def __getitem__(self, key):
            threads.append(threading.current_thread().name)
            return read(self, key)

    loader = built.test_dataloader()
    loader.dataset.__class__ = Noted
    cases = [case for batch in loader for case in batch["case"]]
    assert cases == built.cases("test")
    assert threads == ["loader_0"] * len(cases)


def test_samplers_are_not_taken_away(module) -> None:
    data = module()
    data.trainer = lightning.Trainer(overfit_batches=2, logger=False, enable_checkpointing=False)
    with pytest.raises(TrainerError, match=r"must be 0, got 2: .*SPLIT=FILE"):
        data.setup("fit")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_epochs_under_lightning(module, tmp_path: Path, num_workers: int) -> None:
    """Each epoch has its own order and draws, also after resuming, when workers start early."""

    def run(epochs: int, checkpoint: Path | None = None) -> list[tuple[int, list[float]]]:
        model = Recorder()
        trainer = lightning.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
        built = module(augmentation=STRONG, num_workers=num_workers)
        trainer.fit(model, datamodule=built, ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
        return model.seen

    built = ready(module(augmentation=STRONG))
    loader = built.train_dataloader()
    expected = []
    for epoch in range(3):
        loader.batch_sampler.set_epoch(epoch)
        expected += [(epoch, batch["image"].sum((1, 2, 3)).tolist()) for batch in loader]
    assert run(3) == expected
    half = run(2)
    assert half + run(3, tmp_path / "2.ckpt") == expected
