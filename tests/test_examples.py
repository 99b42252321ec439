"""The losses and metrics in other people's loops: both examples run, and their claims are right."""

from collections.abc import Sequence
from statistics import mean

import pytest

from experiments.examples import digits, monai_trainer

pytestmark = pytest.mark.filterwarnings("ignore")


def test_digits(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = digits.compare(range(2), epochs=30)
    ce, *margins = (scores[name] for name in digits.LOSSES)
    assert mean(ce["signed"]) > 0.02  # overconfident, as in the docstring
    for margin in margins:
        assert mean(margin["ece"]) < 0.7 * mean(ce["ece"])
        assert mean(margin["accuracy"]) > mean(ce["accuracy"]) - 0.06  # it costs some
    monkeypatch.setattr(digits, "compare", lambda *_: scores)
    digits.main([])
    shown = capsys.readouterr().out
    assert "mean and sd of 2 seeds" in " ".join(shown.split())
    assert all(f"{mean(values['ece']):.4f} ± " in shown for values in scores.values())


def test_digits_of_a_seed_are_divided_and_the_same() -> None:
    one, other = digits.digits(3), digits.digits(3)
    assert {name: len(part.label) for name, part in one.items()} == {
        "train": 300, "val": 300, "test": 1197,
    }  # fmt: skip
    assert all((one[name].image == other[name].image).all() for name in one)


def test_monai(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    scores = monai_trainer.compare(range(2), epochs=30)
    ce, margin = (scores[name] for name in monai_trainer.LOSSES)
    assert mean(ce["dice"]) > 0.7
    assert mean(margin["dice"]) > mean(ce["dice"]) - 0.03
    assert mean(margin["ece"]) < mean(ce["ece"])
    monkeypatch.setattr(monai_trainer, "compare", lambda *_: scores)
    monai_trainer.main([])
    assert f"{mean(margin['ece']):.4f} ± " in capsys.readouterr().out


@pytest.mark.parametrize("main", [digits.main, monai_trainer.main])
def test_one_seed_has_no_spread(main, capsys: pytest.CaptureFixture[str]) -> None:
    call: Sequence[str] = ["--seeds", "1"]
    with pytest.raises(SystemExit, match="2"):
        main(call)
    assert "--seeds must be at least 2, got 1" in capsys.readouterr().err
