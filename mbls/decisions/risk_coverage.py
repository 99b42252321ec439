r"""Risk-coverage curves, and the areas below them.

Cases are accepted in order of their confidence, the surest first:

- the *selective risk* at a coverage is the mean risk of the accepted cases; AURC is its mean over
  the coverages 1/n ... 1 (Geifman et al. 2019, arXiv:1805.08206);
- the *generalized risk* is their sum over all n cases, so that of an accepted failure; AUGRC is the
  area below it, by trapezoids from (0, 0) (Traub et al. 2024, arXiv:2407.01032).

Cases of equal confidence count with their mean risk: the expectation over their orders, so an order
of the files cannot help.
"""

import numpy as np

__all__ = ["augrc", "aurc", "generalized_risk", "selective_risk"]


def selective_risk(confidence: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Return the mean risk of the 1, 2 ... n surest cases ``(n,)``.

    Args:
        confidence: Larger if surer ``(n,)``; neither may be NaN.
        risk: Risk of each case ``(n,)``.
    """
    found: np.ndarray = _accepted(confidence, risk) / np.arange(1, len(risk) + 1)
    return found


def generalized_risk(confidence: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Return the summed risk of the 1, 2 ... n surest cases over n ``(n,)``."""
    found: np.ndarray = _accepted(confidence, risk) / len(risk)
    return found


def aurc(confidence: np.ndarray, risk: np.ndarray) -> float:
    """Return the area under the risk-coverage curve: the mean of the selective risks.

    Example:
        >>> import numpy as np
        >>> aurc(np.array([0.9, 0.8, 0.1]), np.array([0.0, 0.0, 0.6]))
        0.06666666666666667
    """
    return float(selective_risk(confidence, risk).mean())


def augrc(confidence: np.ndarray, risk: np.ndarray) -> float:
    """Return the area under the generalized-risk-coverage curve.

    At random it is half of the mean risk.
    """
    risks = np.concatenate([[0.0], generalized_risk(confidence, risk)])
    return float((risks[1:] + risks[:-1]).mean() / 2)


def _accepted(confidence: np.ndarray, risk: np.ndarray) -> np.ndarray:
    """Return the sum of the risks of the 1, 2 ... n surest cases, tied ones with their mean."""
    _, group = np.unique(-confidence, return_inverse=True)
    mean = np.bincount(group, risk) / np.bincount(group)
    total: np.ndarray = np.cumsum(mean[np.sort(group)])
    return total
