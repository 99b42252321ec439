"""The contract of Loss: named terms, wrappers that hand on, foreign modules as parts."""

import math

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import Tensor, nn

from mbls.losses import (
    AdaptiveLoss,
    CompoundLoss,
    CrossEntropyLoss,
    DiceCrossEntropyLoss,
    ImageLoss,
    Loss,
    MarginLoss,
    PenaltyLoss,
    part_terms,
)


class Counting(AdaptiveLoss):
    """Counts the calls; its value is the mean logit."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"mean": logits.mean()}

    def bind(self, num_classes: int) -> None:
        super().bind(num_classes)
        self.calls.append(f"bind {num_classes}")

    def observe(self, logits: Tensor, target: Tensor) -> None:
        super().observe(logits, target)
        self.calls.append("observe")

    def adapt(self) -> None:
        super().adapt()
        self.calls.append("adapt")


class Brightness(ImageLoss):
    def terms(self, logits: Tensor, target: Tensor, image: Tensor) -> dict[str, Tensor]:
        return {"brightness": image.mean() + 0 * logits.sum()}


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 4, 5), torch.randint(3, (2, 4, 5))


def test_forward_is_the_sum_of_the_terms(batch: tuple[Tensor, Tensor]) -> None:
    loss = MarginLoss(0.5, alpha=0.3, base=DiceCrossEntropyLoss())
    terms = loss.terms(*batch)
    assert list(terms) == ["ce", "dice", "margin"]
    assert loss(*batch).item() == pytest.approx(sum(term.item() for term in terms.values()))


@pytest.mark.parametrize("depth", ["itself", "compound", "base", "base of a part"])
def test_wrappers_hand_on_what_an_adaptive_loss_needs(
    batch: tuple[Tensor, Tensor], depth: str
) -> None:
    inner = Counting()
    loss: Loss = {
        "itself": lambda: inner,
        "compound": lambda: CompoundLoss({"ce": (1, CrossEntropyLoss()), "own": (2, inner)}),
        "base": lambda: MarginLoss(base=inner),
        "base of a part": lambda: CompoundLoss({"own": (2, MarginLoss(base=inner))}),
    }[depth]()
    loss.bind(3)
    loss.observe(*batch)
    loss.adapt()
    assert inner.calls == ["bind 3", "observe", "adapt"]
    assert loss.adaptive


def test_a_loss_without_state_is_not_adaptive_and_ignores_the_calls(
    batch: tuple[Tensor, Tensor],
) -> None:
    loss = MarginLoss()
    loss.observe(*batch)
    loss.adapt()
    assert not loss.adaptive


def test_compound_weights_names_and_passes_the_image(batch: tuple[Tensor, Tensor]) -> None:
    loss = CompoundLoss(
        {
            "ce": (0.5, CrossEntropyLoss()),
            "both": (2.0, DiceCrossEntropyLoss()),
            "light": (3.0, Brightness()),
        }
    )
    terms = loss.terms(*batch, torch.ones(2, 1, 4, 5))
    assert list(terms) == ["ce", "both/ce", "both/dice", "light"]
    assert terms["both/ce"].item() == pytest.approx(4 * terms["ce"].item())
    assert terms["light"].item() == pytest.approx(3)
    assert loss.needs_image
    with pytest.raises(ValueError, match="Brightness needs the image"):
        loss(*batch)


def test_a_base_that_needs_the_image_is_refused() -> None:
    with pytest.raises(TypeError, match="base must not need the image, got Brightness"):
        MarginLoss(base=Brightness())


def test_a_base_with_another_ignore_index_is_refused() -> None:
    theirs = CrossEntropyLoss(ignore_index=255)
    for base in (theirs, CompoundLoss({"ce": (1.0, theirs)})):
        with pytest.raises(ValueError, match="CrossEntropyLoss has 255, MarginLoss -100"):
            MarginLoss(base=base)


def test_a_sum_below_a_penalty_has_the_ignore_index_of_its_parts() -> None:
    parts = {"ce": (1.0, CrossEntropyLoss(ignore_index=255))}
    loss = MarginLoss(0.0, base=CompoundLoss(parts), ignore_index=255)
    logits, target = torch.randn(1, 3, 4), torch.tensor([[0, 255, 2, 1]])
    plain = MarginLoss(0.0, ignore_index=255)
    torch.testing.assert_close(loss(logits, target), plain(logits, target))


def test_a_base_that_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="base must be a loss module or None, got 'ce'"):
        MarginLoss(base="ce")


def test_two_terms_of_one_name_are_refused() -> None:
    stacked = MarginLoss(base=CompoundLoss({"margin": (1, CrossEntropyLoss())}))
    with pytest.raises(ValueError, match=r"both have a term 'margin'.*CompoundLoss"):
        stacked(torch.zeros(1, 2, 4), torch.zeros(1, 4))


def test_a_base_that_validates_does_so_below_a_penalty() -> None:
    """Cross-entropy shares the penalty's pass over the logits, and its look at the labels."""
    loss = MarginLoss(base=CrossEntropyLoss(validate=True))
    with pytest.raises(ValueError, match=r"target must be in 0\.\.2 or ignore_index -100, got \[7"):
        loss(torch.zeros(1, 3, 2), torch.tensor([[0, 7]]))


def test_a_monai_loss_is_a_base_and_a_part(batch: tuple[Tensor, Tensor]) -> None:
    monai = DiceCELoss(softmax=True, to_onehot_y=True)
    expected = monai(batch[0], batch[1].unsqueeze(1))
    assert part_terms(monai, *batch)["loss"].item() == pytest.approx(expected.item())
    terms = MarginLoss(base=monai).terms(*batch)
    assert terms["base"].item() == pytest.approx(expected.item())
    assert CompoundLoss({"m": (2, monai)})(*batch).item() == pytest.approx(2 * expected.item())


def test_monais_dice_that_ignores_nothing_is_a_base(batch: tuple[Tensor, Tensor]) -> None:
    monai = DiceLoss(softmax=True, to_onehot_y=True)
    terms = MarginLoss(base=monai).terms(*batch)
    assert terms["base"] == monai(batch[0], batch[1].unsqueeze(1))


@pytest.mark.parametrize(
    ("losses", "error", "message"),
    [
        ({}, ValueError, "at least one part"),
        ({"a.b": (1, CrossEntropyLoss())}, ValueError, "without '.' and '/', got 'a.b'"),
        ({"a": CrossEntropyLoss()}, TypeError, r"losses\['a'\] must be \(factor, loss\)"),
        ({"a": (1, 2)}, TypeError, r"losses\['a'\] must be \(factor, loss\)"),
        ({"a": ("1", CrossEntropyLoss())}, TypeError, r"losses\['a'\] must be \(factor, loss\)"),
        ({"a": (math.nan, CrossEntropyLoss())}, ValueError, r"\['a'\] .* finite factor, got nan"),
    ],
)
def test_compound_refuses_what_it_cannot_weigh(
    losses: dict, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CompoundLoss(losses)


def test_parts_are_in_the_state_dict_and_follow_the_module() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", torch.ones(3))

        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            return logits.mean()

    loss = CompoundLoss({"own": (1, MarginLoss(base=Weighted()))})
    assert list(loss.state_dict()) == ["losses.own.base.weight"]


def test_an_adaptive_penalty_has_a_base_and_buffers(batch: tuple[Tensor, Tensor]) -> None:
    """What CALS needs of the bases: a base below, state in buffers, calls handed further down."""

    class Multiplied(AdaptiveLoss, PenaltyLoss):
        def __init__(self, base: nn.Module | None = None) -> None:
            super().__init__(base)
            self.register_buffer("multiplier", torch.ones(()))
            self.register_buffer("total", torch.zeros((), dtype=torch.float64))

        def terms(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
            logits, target = self.prepare(logits, target)
            penalty = self.multiplier * logits.square().mean()
            return {**self.base_terms(logits, target), "penalty": penalty}

        def observe(self, logits: Tensor, target: Tensor) -> None:
            super().observe(logits, target)
            self.total += logits.square().mean()

        def adapt(self) -> None:
            super().adapt()
            self.multiplier += self.total
            self.total.zero_()

    inner = Counting()
    loss = CompoundLoss({"own": (1.0, Multiplied(MarginLoss(base=inner)))})
    before = loss(*batch)
    loss.observe(*batch)
    loss.adapt()
    assert loss(*batch) > before
    assert inner.calls == ["observe", "adapt"]
    assert sorted(loss.state_dict()) == ["losses.own.multiplier", "losses.own.total"]
    other = CompoundLoss({"own": (1.0, Multiplied(MarginLoss(base=Counting())))})
    other.load_state_dict(loss.state_dict())
    assert other(*batch) == loss(*batch)


def test_no_term_is_called_like_the_sum(batch: tuple[Tensor, Tensor]) -> None:
    stacked = MarginLoss(base=nn.CrossEntropyLoss())
    assert set(stacked.terms(*batch)) == {"base", "margin"}
    with pytest.raises(ValueError, match="must not be named 'loss'"):
        CompoundLoss({"loss": (1.0, nn.CrossEntropyLoss())})
