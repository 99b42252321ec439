"""Every metric: the precision of states, plots, and messages of errors."""

import ast
import doctest
import importlib
import inspect
import math
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mbls import metrics
from mbls.metrics import (
    BrierScore,
    CalibrationHistogram,
    DiceScore,
    ExpectedCalibrationError,
    FineHistogram,
    HausdorffDistance95,
    HistogramMetric,
    NormalizedSurfaceDice,
    SmoothCalibrationError,
)

OWN = ("metrics", "runtime")
BUILT = {
    "histogram": lambda: CalibrationHistogram(3, num_cases=2),
    "ece": lambda: ExpectedCalibrationError(3),
    "fine": lambda: FineHistogram(3),
    "dice": lambda: DiceScore(3, num_cases=2),
    "mean dice": lambda: DiceScore(3),
    "hd95": lambda: HausdorffDistance95(3, num_cases=2),
    "nsd": lambda: NormalizedSurfaceDice(3),
}


def fed(metric):
    generator = torch.Generator().manual_seed(1)
    probs = torch.rand(2, 3, 40, 50, generator=generator).softmax(1)
    target = torch.randint(3, (2, 40, 50), generator=generator)
    metric.update(probs, target, spacing=torch.full((2, 2), 0.7), index=torch.arange(2))
    return metric


def states(metric):
    return {name: getattr(metric, name).clone() for name in metric._defaults}


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
@pytest.mark.parametrize(
    "cast",
    [
        lambda m: m.set_dtype(torch.float16),
        lambda m: m.set_dtype(torch.bfloat16),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.half(),
        lambda m: torch.nn.ModuleList([m]).to(torch.float16)[0],
    ],
    ids=["set half", "set bfloat16", "to", "half", "in a module"],
)
def test_states_are_never_cast(build, cast):
    expected, metric = states(fed(build())), cast(fed(build()))
    for name, value in states(metric).items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name
    for name, value in states(fed(cast(build()))).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("build", BUILT.values(), ids=BUILT)
def test_states_follow_the_device(build):
    metric = build().to("meta")
    assert all(getattr(metric, name).device.type == "meta" for name in metric._defaults)
    assert metric.device.type == "meta"


def test_single_numbers_are_plotted_and_others_refused():
    for metric in (ExpectedCalibrationError(3), SmoothCalibrationError(3), DiceScore(3)):
        value = fed(metric).compute()
        figure, axes = metric.plot()
        assert isinstance(figure, Figure)
        assert axes.lines[0].get_ydata().tolist() == [pytest.approx(float(value))]
        _, axes = metric.plot([value, value / 2, value / 4])
        assert len(axes.lines[0].get_ydata()) == 3
    with pytest.raises(TypeError, match=r"HausdorffDistance95.*Tensor of shape \(2, 3\)"):
        fed(HausdorffDistance95(3, num_cases=2)).plot()
    with pytest.raises(TypeError, match=r"CalibrationBins.*mbls\.plots"):
        fed(CalibrationHistogram(3)).plot()
    with pytest.raises(TypeError, match=r"FineHistogram.*ndarray"):
        fed(FineHistogram(3)).plot()


PUBLIC = [getattr(metrics, name) for name in metrics.__all__]
CLASSES = [c for c in PUBLIC if inspect.isclass(c) and issubclass(c, torch.nn.Module)]


@pytest.mark.parametrize("build", CLASSES)
def test_errors_and_signatures_are_those_of_public_classes(build):
    with pytest.raises(TypeError, match="num_classes") as error:
        build()
    assert str(error.value).split(".")[0] in metrics.__all__
    arguments = set(inspect.signature(build).parameters)
    assert {"num_classes", "ignore_index"} <= arguments
    if issubclass(build, HistogramMetric):
        assert {"n_bins", "region", "num_cases"} <= arguments
    if issubclass(build, (DiceScore, HausdorffDistance95, NormalizedSurfaceDice)):
        assert {"unions", "num_cases"} <= arguments


@pytest.mark.parametrize("build", [ExpectedCalibrationError, FineHistogram, DiceScore])
def test_numpy_arrays_are_named(build):
    probs = np.full((1, 3, 4), 1 / 3, dtype=np.float32)
    target = torch.zeros(1, 4)
    with pytest.raises(TypeError, match=r"probs .* got numpy\.ndarray"):
        build(3).update(probs, target)
    with pytest.raises(TypeError, match=r"target .* got numpy\.ndarray"):
        build(3).update(torch.from_numpy(probs), target.numpy())


def test_the_way_to_leave_out_the_background_is_named():
    with pytest.raises(ValueError, match="region='label'"):
        BrierScore(3, ignore_index=0)
    assert math.isfinite(fed(BrierScore(3, region="label")).compute())


@pytest.mark.parametrize("build", [FineHistogram, SmoothCalibrationError])
def test_fine_histograms_keep_no_cases_apart(build):
    with pytest.raises(TypeError, match=f"{build.__name__} pools all cases"):
        build(3, num_cases=6)


@pytest.mark.parametrize("module", [m.name for m in pkgutil.walk_packages(metrics.__path__)])
def test_examples_of_docstrings(module):
    found = doctest.testmod(importlib.import_module(f"mbls.metrics.{module}"))
    assert not found.failed


@pytest.mark.parametrize("build", CLASSES)
def test_public_classes_show_arguments_and_an_example(build):
    for name in inspect.signature(build).parameters:
        assert f" {name}: " in build.__doc__
    assert ">>>" in build.__doc__ or build in (CalibrationHistogram, FineHistogram, HistogramMetric)


def test_importing_metrics_loads_nothing_heavy_of_ours():
    """torchmetrics itself imports matplotlib where it is installed."""
    files = Path(metrics.__file__).parent.rglob("*.py")
    nodes = [node for file in files for node in ast.parse(file.read_text()).body]
    found = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
    found |= {n.module for n in nodes if isinstance(n, ast.ImportFrom)}
    heavy = {"matplotlib", "pandas", "monai", "lightning"}
    assert not heavy & {name.split(".")[0] for name in found}
    assert not [n for n in found if n.startswith("mbls") and n.split(".")[1] not in OWN]
