"""Predictions whose labels are drawn from a known posterior."""

import torch

from mbls.predictions import Prediction


def case(
    name: str, *, temperature: float = 1.5, classes: int = 4, shape: tuple[int, ...] = (12, 10, 9),
    dtype: torch.dtype = torch.float32, ignored: float = 0.0,
) -> Prediction:  # fmt: skip
    """Probabilities sharpened by a temperature: scaling by it gives the posterior back."""
    logits = torch.randn(classes, *shape, dtype=dtype) * 2
    logits[0] += 2
    posterior = logits.softmax(0).flatten(1).T
    label = torch.distributions.Categorical(probs=posterior).sample().view(shape)
    label[torch.rand(shape) < ignored] = -100
    probs = (logits * temperature).softmax(0)
    return Prediction(name, probs, label, (1.0,) * len(shape))


def region_case(name: str, *, regions: int = 3, temperature: float = 2.0) -> Prediction:
    """Overlapping regions, each sharpened by a temperature."""
    logits = torch.randn(regions, 15, 14, 13) * 2 - 1
    label = (torch.rand_like(logits) < logits.sigmoid()).long()
    probs = (logits * temperature).sigmoid()
    return Prediction(name, probs, label, (1.0, 1.0, 1.0), regions=True)


def voxels(cases: list[Prediction]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities ``(C, L)`` and labels ``(L,)`` of all labeled voxels, float64."""
    log_probs = torch.cat([c.log_probs().double().flatten(1) for c in cases], dim=1)
    label = torch.cat([c.label.flatten() for c in cases])
    return log_probs[:, label != -100], label[label != -100]
