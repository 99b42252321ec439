"""Metrics have the same bits on one, two and three processes, also with a single case."""

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing import start_processes

from mbls.metrics import (
    CalibrationHistogram,
    CaseConfidence,
    ClasswiseCalibrationError,
    DiceScore,
    ExpectedCalibrationError,
    FineHistogram,
    HausdorffDistance95,
    NormalizedSurfaceDice,
    SmoothCalibrationError,
)

CASES = (1, 7)
WORLDS = (2, 3)
CLASSES = 3
COMPUTED = ("dice", "hd95", "nsd", "confidence", "ece", "cece", "smooth")


def make_case(number):
    generator = torch.Generator().manual_seed(number)
    probs = torch.randn(1, CLASSES, 9 + number, 11, generator=generator).softmax(1)
    target = torch.randint(CLASSES, (1, 9 + number, 11), generator=generator)
    if number == 0:  # every region is the same set of voxels in the first case
        target.fill_(1)
    return probs, target


def metrics(num_cases, **kwargs):
    return {
        "apart": CalibrationHistogram(CLASSES, num_cases=num_cases, **kwargs),
        "pooled": CalibrationHistogram(CLASSES, **kwargs),
        "fine": FineHistogram(CLASSES, **kwargs),
        "dice": DiceScore(CLASSES, num_cases=num_cases, **kwargs),
        "hd95": HausdorffDistance95(CLASSES, num_cases=num_cases, **kwargs),
        "nsd": NormalizedSurfaceDice(CLASSES, num_cases=num_cases, **kwargs),
        "confidence": CaseConfidence(CLASSES, num_cases=num_cases, **kwargs),
        "ece": ExpectedCalibrationError(CLASSES, region="label", **kwargs),
        "cece": ClasswiseCalibrationError(CLASSES, num_cases=num_cases, norm="l2", **kwargs),
        "smooth": SmoothCalibrationError(CLASSES, region="union", **kwargs),
    }


def feed(built, numbers):
    for number in numbers:
        probs, target = make_case(number)
        index, spacing = torch.tensor([number]), torch.tensor([[1.5, 0.7]])
        for name, metric in built.items():
            posterior = {"posterior": probs.flip(1)} if name == "apart" else {}
            metric.update(probs, target, index=index, spacing=spacing, **posterior)


def totals(built):
    result = {}
    for name, metric in built.items():
        with metric.sync_context():
            result |= {f"{name}.{s}": getattr(metric, s).clone() for s in metric._defaults}
    return result | {name: built[name].compute() for name in COMPUTED}


def run_rank(rank, file, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=3)
    groups = {world: dist.new_group(list(range(world))) for world in WORLDS}
    for world, group in groups.items():
        if rank >= world:
            continue
        for num_cases in CASES:
            built = metrics(num_cases, process_group=group)
            feed(built, range(rank, num_cases, world))
            torch.save(totals(built), f"{out}/{world}-{num_cases}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.ddp
def test_equal_to_the_bit_on_one_two_and_three_processes(tmp_path):
    start_processes(
        run_rank, args=(tmp_path / "rendezvous", tmp_path), nprocs=3, start_method="fork"
    )
    for num_cases in CASES:
        alone = metrics(num_cases)
        feed(alone, range(num_cases))
        expected = totals(alone)
        for world in WORLDS:
            for rank in range(world):
                found = torch.load(tmp_path / f"{world}-{num_cases}-{rank}.pt", weights_only=True)
                assert found.keys() == expected.keys()
                for name, value in expected.items():
                    same = torch.equal(found[name].nan_to_num(-1), value.nan_to_num(-1))
                    assert same, (world, num_cases, rank, name)
