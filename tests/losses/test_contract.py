"""What every loss keeps: shapes, dtypes, ignored voxels, degenerate batches, no host wait."""

import copy
import math
import os
import pickle
import shutil
import sys

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from tests.losses.every_loss import CONFIGS, NAMES, batch, build

SPACES = [(), (9,), (4, 5), (3, 4, 5)]
CXX = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
every_loss = pytest.mark.parametrize("name", NAMES)


def value_and_gradient(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf, target)
    value.backward()
    return value.detach(), leaf.grad


@every_loss
@pytest.mark.parametrize("space", SPACES, ids=["flat", "1d", "2d", "3d"])
def test_any_number_of_axes_and_every_form_of_target(name: str, space: tuple[int, ...]) -> None:
    loss = build(name)
    logits, target = batch(name, space, n=8)
    value, gradient = value_and_gradient(loss, logits, target)
    assert value.shape == ()
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient.abs().sum() > 0
    for other in (target.unsqueeze(1), target.double(), target.to(torch.uint8).unsqueeze(1)):
        torch.testing.assert_close(loss(logits, other), value, rtol=0, atol=0)


@every_loss
@pytest.mark.parametrize("kept", ["some", "one"])
def test_ignored_voxels_do_not_count(name: str, kept: str) -> None:
    """Neither their logits nor the number that stands for "ignore" matters; no gradient there."""
    logits, target = batch(name, (4, 5))
    keep = torch.rand(target.shape) < 0.6 if kept == "some" else torch.zeros(target.shape) > 0
    keep[0, 1, 2] = True
    ours = target.masked_fill(~keep, -100)
    value, gradient = value_and_gradient(build(name), logits, ours)
    assert value.isfinite()
    assert gradient.isfinite().all()
    away = (~keep).unsqueeze(1).expand_as(logits)
    assert (gradient[away] == 0).all()
    elsewhere = torch.where(away, 5 * torch.randn_like(logits), logits)
    torch.testing.assert_close(build(name)(elsewhere, ours), value)
    theirs = target.masked_fill(~keep, 255)
    torch.testing.assert_close(build(name, ignore_index=255)(logits, theirs), value)
    if kept == "some":
        assert build(name)(logits, target) != value  # so they would have counted


@every_loss
@pytest.mark.parametrize("space", [(), (4, 5)], ids=["flat", "2d"])
def test_a_batch_without_labels_is_a_zero_that_backpropagates(
    name: str, space: tuple[int, ...]
) -> None:
    logits, target = batch(name, space)
    value, gradient = value_and_gradient(build(name), logits, torch.full_like(target, -100))
    assert value == 0
    assert (gradient == 0).all()


@every_loss
@pytest.mark.parametrize("n", [0, 2], ids=["no images", "images of no voxels"])
@pytest.mark.parametrize("space", [(), (4, 5)], ids=["flat", "2d"])
def test_an_empty_batch_is_a_zero_that_backpropagates(
    name: str, space: tuple[int, ...], n: int
) -> None:
    logits, target = batch(name, space)
    nothing = (slice(0, n), ..., slice(0, 0)) if n and space else slice(0, 0)
    value, gradient = value_and_gradient(build(name), logits[nothing], target[nothing])
    assert value == 0
    assert gradient.shape == logits[nothing].shape


@every_loss
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_logit_breaks_the_value(name: str, broken: float) -> None:
    """A diverged network is seen in the loss; it is neither hidden nor an error about an index."""
    logits, target = batch(name, (4, 5))
    logits[0, 0, 1, 1] = broken
    assert not build(name)(logits, target).isfinite()


@every_loss
def test_copies_and_pickles(name: str) -> None:
    """As a process group that spawns its processes needs."""
    logits, target = batch(name, (4, 5))
    expected = build(name)(logits, target)
    assert copy.deepcopy(build(name))(logits, target) == expected
    assert pickle.loads(pickle.dumps(build(name)))(logits, target) == expected


@every_loss
@pytest.mark.parametrize("space", [(), (1,), (1, 1)], ids=["flat", "1d", "2d"])
def test_one_voxel(name: str, space: tuple[int, ...]) -> None:
    logits, target = batch(name, space, n=1)
    value, gradient = value_and_gradient(build(name), logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@every_loss
def test_absent_classes(name: str) -> None:
    logits, target = batch(name)
    for labels in (torch.zeros_like(target), torch.ones_like(target)):
        value, gradient = value_and_gradient(build(name), logits, labels)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("space", [(4, 6), (3, 4, 6)], ids=["2d", "3d"])
def test_memory_layout_does_not_matter(name: str, space: tuple[int, ...]) -> None:
    logits, target = batch(name, space)
    expected = value_and_gradient(build(name), logits, target)
    last = logits.movedim(1, -1).contiguous().movedim(-1, 1)  # channels_last, channels_last_3d
    assert not last.is_contiguous()
    torch.testing.assert_close(value_and_gradient(build(name), last, target), expected)
    wide = logits.repeat_interleave(2, dim=1).repeat_interleave(2, dim=-1).requires_grad_()
    labels = target.transpose(1, 2).contiguous().transpose(1, 2)
    loss = build(name)(wide[:, ::2, ..., ::2], labels)
    loss.backward()
    torch.testing.assert_close((loss.detach(), wide.grad[:, ::2, ..., ::2]), expected)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [3.0, 1000.0])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype, scale: float) -> None:
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    logits = (logits / logits.abs().max() * scale).to(dtype)
    expected, wide = value_and_gradient(build(name), logits.float(), target)
    with torch.autocast("cpu", dtype=dtype):
        value, gradient = value_and_gradient(build(name), logits, target)
        under, _ = value_and_gradient(build(name), logits.float(), target)
    assert value.dtype == torch.float32
    assert value.isfinite()
    assert gradient.isfinite().all()
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(under, expected)
    torch.testing.assert_close(gradient.float(), wide, rtol=1e-2, atol=1e-3)


@every_loss
def test_extreme_logits_agree_with_float64(name: str) -> None:
    logits, target = batch(name, (4, 5))
    logits = logits / logits.abs().max() * 1000
    value = build(name)(logits.float(), target)
    torch.testing.assert_close(value.double(), build(name)(logits, target), rtol=1e-4, atol=1e-6)


@every_loss
def test_the_host_never_waits_for_a_value(name: str) -> None:
    """On the meta device a tensor has no values: reading one raises."""
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    leaf = logits.to("meta").requires_grad_()
    for labels in (target.to("meta"), target.float().to("meta")):
        build(name)(leaf, labels).backward()
    with pytest.raises(RuntimeError, match="meta tensor"):
        build(name, validate=True)(leaf, target.to("meta"))


@every_loss
def test_gradcheck(name: str) -> None:
    loss = build(name, **({"negative_weight": 0.0} if name.startswith("acls") else {}))
    logits, target = batch(name, (2, 3), n=2)
    target[0, 0, 1] = -100
    assert torch.autograd.gradcheck(lambda z: loss(z, target), logits.requires_grad_())


@every_loss
def test_settings_do_not_change_and_calls_repeat(name: str) -> None:
    loss = build(name)
    before = {k: v for k, v in vars(loss).items() if not k.startswith("_")}
    logits, target = batch(name)
    kept = target.clone()
    first = loss(logits, target)
    assert loss(logits, target) == first
    assert {k: v for k, v in vars(loss).items() if not k.startswith("_")} == before
    assert (target == kept).all()
    assert loss.adaptive == bool(loss.state_dict())
    for key, value in build(name).state_dict().items():
        assert torch.equal(loss.state_dict()[key], value)


@pytest.mark.parametrize("name", CONFIGS)
def test_compiles_to_one_graph_with_the_same_value(name: str) -> None:
    loss = build(name)
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    target[0, 1, 1] = -100
    expected = value_and_gradient(loss, logits, target)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)
    torch.testing.assert_close(value_and_gradient(compiled, logits, target), expected)


@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="inductor needs a C++ compiler: $CXX, g++ (macOS: clang++)")
@pytest.mark.parametrize("name", CONFIGS)
def test_inductor_gives_the_same_value(name: str) -> None:
    loss = build(name)
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    target[0, 1, 1] = -100
    expected = value_and_gradient(loss, logits, target)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(value_and_gradient(compiled, logits, target), expected)


def test_values_are_those_of_the_catalogue() -> None:
    """A uniform output over four classes: the terms that are known without computing."""
    logits, target = torch.zeros(2, 4, 3, 3), torch.randint(4, (2, 3, 3))
    known = {"ce": math.log(4), "ls": math.log(4), "focal": 0.75**3 * math.log(4), "brier": 0.75}
    known |= {"mbls": math.log(4), "ecp": math.log(4) * (1 - 0.1 / 4), "l1_penalty": math.log(4)}
    for name, value in known.items():
        assert build(name)(logits, target).item() == pytest.approx(value, rel=1e-6), name


@pytest.mark.parametrize("name", CONFIGS)
def test_monais_tensors_with_affines(name: str) -> None:
    """MONAI's trainers hand over a MetaTensor of float labels with a channel axis."""
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    expected = value_and_gradient(build(name), logits, target)
    labels = MetaTensor(target.unsqueeze(1).float())
    torch.testing.assert_close(value_and_gradient(build(name), logits, labels), expected)
    leaf = MetaTensor(logits.clone()).requires_grad_()
    value = build(name)(leaf, labels)
    value.backward()
    torch.testing.assert_close(torch.Tensor(value.detach()), expected[0])
    torch.testing.assert_close(torch.Tensor(leaf.grad), expected[1])
