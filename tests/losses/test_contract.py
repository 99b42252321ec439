"""Contract of every loss: shapes, dtypes, ignored voxels, degenerate batches, no host sync."""

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

CXX = shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
FAMILIES = [name for name in CONFIGS if not name.endswith(("_dice", "_ce", "_weighted"))]
every_loss = pytest.mark.parametrize("name", NAMES)
every_config = pytest.mark.parametrize("name", CONFIGS)
close = torch.testing.assert_close


def value_and_gradient(loss: torch.nn.Module, logits: Tensor, target: Tensor) -> tuple:
    leaf = logits.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    value = loss(leaf, target)
    value.backward()
    assert value.shape == ()
    return value.detach(), leaf.grad


@every_loss
def test_any_number_of_axes_and_every_form_of_target(name: str) -> None:
    loss = build(name)
    for space in [(), (9,), (4, 5), (3, 4, 5)]:
        logits, target = batch(name, space, n=8)
        value, gradient = value_and_gradient(loss, logits, target)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert gradient.abs().sum() > 0
        for other in (target.unsqueeze(1), target.double(), target.to(torch.uint8).unsqueeze(1)):
            close(loss(logits, other), value, rtol=0, atol=0)


@every_loss
def test_one_voxel_and_absent_classes_are_finite(name: str) -> None:
    cases = [batch(name, space, n=1) for space in [(), (1,), (1, 1)]]
    logits, target = batch(name)
    cases += [(logits, torch.full_like(target, label)) for label in (0, 1)]
    for case in cases:
        value, gradient = value_and_gradient(build(name), *case)
        assert value.isfinite()
        assert gradient.isfinite().all()


@every_loss
@pytest.mark.parametrize("kept", ["some", "one"])
def test_ignored_voxels_do_not_count(name: str, kept: str) -> None:
    """Neither their logits nor ``ignore_index`` itself matters, and they get no gradient."""
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
    close(build(name)(elsewhere, ours), value)
    close(build(name, ignore_index=255)(logits, target.masked_fill(~keep, 255)), value)
    if kept == "some":
        assert build(name)(logits, target) != value  # so they would have counted


@every_loss
def test_a_batch_without_labels_or_voxels_is_a_zero_that_backpropagates(name: str) -> None:
    for space in [(), (4, 5)]:
        logits, target = batch(name, space)
        value, gradient = value_and_gradient(build(name), logits, torch.full_like(target, -100))
        assert value == 0
        assert (gradient == 0).all()
        for nothing in (slice(0, 0), (slice(0, 2), ..., slice(0, 0)) if space else slice(0, 0)):
            value, gradient = value_and_gradient(build(name), logits[nothing], target[nothing])
            assert value == 0
            assert gradient.shape == logits[nothing].shape


@every_loss
def test_a_logit_that_is_not_finite_makes_the_loss_so(name: str) -> None:
    """A diverged network shows in the loss; it is neither hidden nor an error about an index."""
    logits, target = batch(name, (4, 5))
    for broken in (math.nan, math.inf):
        logits[0, 0, 1, 1] = broken
        assert not build(name)(logits, target).isfinite()


@every_loss
def test_calls_repeat_on_copies_and_change_nothing(name: str) -> None:
    loss = build(name)
    before = {k: v for k, v in vars(loss).items() if not k.startswith("_")}
    logits, target = batch(name, (4, 5))
    kept = target.clone()
    expected = loss(logits, target)
    for one in (loss, copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert one(logits, target) == expected
    assert {k: v for k, v in vars(loss).items() if not k.startswith("_")} == before
    assert (target == kept).all()
    assert loss.adaptive == bool(loss.state_dict())
    for key, value in build(name).state_dict().items():
        assert torch.equal(loss.state_dict()[key], value)


@every_loss
def test_memory_layout_does_not_matter(name: str) -> None:
    for space in [(4, 6), (3, 4, 6)]:
        logits, target = batch(name, space)
        expected = value_and_gradient(build(name), logits, target)
        last = logits.movedim(1, -1).contiguous().movedim(-1, 1)  # channels_last(_3d)
        assert not last.is_contiguous()
        close(value_and_gradient(build(name), last, target), expected)
        wide = logits.repeat_interleave(2, dim=1).repeat_interleave(2, dim=-1).requires_grad_()
        labels = target.transpose(1, 2).contiguous().transpose(1, 2)
        loss = build(name)(wide[:, ::2, ..., ::2], labels)
        loss.backward()
        close((loss.detach(), wide.grad[:, ::2, ..., ::2]), expected)


@every_loss
def test_half_precision_is_computed_in_float32(name: str) -> None:
    for dtype, scale in ((torch.float16, 1000.0), (torch.bfloat16, 3.0)):
        logits, target = batch(name, (4, 5), dtype=torch.float32)
        logits = (logits / logits.abs().max() * scale).to(dtype)
        expected, wide = value_and_gradient(build(name), logits.float(), target)
        with torch.autocast("cpu", dtype=dtype):
            value, gradient = value_and_gradient(build(name), logits, target)
            under, _ = value_and_gradient(build(name), logits.float(), target)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert gradient.isfinite().all()
        close(value, expected)
        close(under, expected)
        close(gradient.float(), wide, rtol=1e-2, atol=1e-3)


@every_loss
def test_extreme_logits_agree_with_float64(name: str) -> None:
    logits, target = batch(name, (4, 5))
    logits = logits / logits.abs().max() * 1000
    value = build(name)(logits.float(), target)
    close(value.double(), build(name)(logits, target), rtol=1e-4, atol=1e-6)


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


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {"backend": "aot_eager", "dynamic": False}) for name in FAMILIES]
    + [
        pytest.param(name, {}, id=f"{name}-inductor", marks=[
            pytest.mark.slow,
            pytest.mark.skipif(CXX is None, reason="inductor needs a C++ compiler: $CXX"),
        ])
        for name in CONFIGS
    ],
)  # fmt: skip
def test_compiles_to_one_graph_with_the_same_value(name: str, options: dict) -> None:
    loss = build(name)
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    target[0, 1, 1] = -100
    expected = value_and_gradient(loss, logits, target)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, **options)
    close(value_and_gradient(compiled, logits, target), expected)


def test_values_of_a_uniform_output_over_four_classes() -> None:
    logits, target = torch.zeros(2, 4, 3, 3), torch.randint(4, (2, 3, 3))
    known = {"ce": math.log(4), "ls": math.log(4), "focal": 0.75**3 * math.log(4), "brier": 0.75}
    known |= {"mbls": math.log(4), "ecp": math.log(4) * (1 - 0.1 / 4), "l1_penalty": math.log(4)}
    for name, value in known.items():
        assert build(name)(logits, target).item() == pytest.approx(value, rel=1e-6), name


@every_config
def test_monai_tensors_with_affines(name: str) -> None:
    """MONAI's trainers pass a MetaTensor of float labels with a channel axis."""
    logits, target = batch(name, (4, 5), dtype=torch.float32)
    expected = value_and_gradient(build(name), logits, target)
    labels = MetaTensor(target.unsqueeze(1).float())
    close(value_and_gradient(build(name), logits, labels), expected)
    leaf = MetaTensor(logits.clone()).requires_grad_()
    value = build(name)(leaf, labels)
    value.backward()
    close(torch.Tensor(value.detach()), expected[0])
    close(torch.Tensor(leaf.grad), expected[1])
