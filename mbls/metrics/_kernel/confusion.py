"""Confusion matrix of a volume, counted in pieces that fit the CPU cache."""

from collections.abc import Iterator

import torch
from torch import Tensor

from mbls.metrics._kernel.pieces import count_pieces
from mbls.metrics._kernel.voxel_inputs import first_of_largest
from mbls.runtime.scratch import Scratch


def confusion(probs: Tensor, target: Tensor, ignore_index: int) -> Tensor | None:
    """Return the confusion matrix of a volume; ties are resolved to the first class.

    It takes a fifth of the time of ``argmax`` and ``bincount`` over the whole volume, and needs no
    memory of the volume's size.

    Args:
        probs: Probabilities or logits ``(C, *S)`` on the CPU.
        target: Labels ``(*S)``, integers.
        ignore_index: Label of ignored voxels.

    Returns:
        int64 ``(C, C)``, predicted by labeled; None for NaN or invalid labels, which the caller
        must report.
    """

    def count(pieces: Iterator[tuple[Tensor, ...]]) -> Tensor | None:
        return _table(pieces, len(probs), ignore_index)

    tables = count_pieces([probs[None], target[None, None]], len(probs), count)
    found = [table for table in tables if table is not None]
    return torch.stack(found).sum(0) if len(found) == len(tables) else None


def _table(
    pieces: Iterator[tuple[Tensor, ...]], num_classes: int, ignore_index: int
) -> Tensor | None:
    C = num_classes
    table = torch.zeros((C + 1) ** 2, dtype=torch.int64)
    scratch = Scratch(torch.device("cpu"))
    for scores, labels in pieces:
        if scores.dtype != torch.float64:
            scores = scores.float()
        shape = (scores.shape[1],)
        lab = scratch("label", shape, torch.float32).copy_(labels[0])
        kept = torch.ne(lab, ignore_index, out=scratch("kept", shape, torch.float32))
        low, high = lab.mul_(kept).aminmax()
        largest = torch.amax(scores, 0, out=scratch("largest", shape, scores.dtype))
        if low < 0 or not high < C or largest.amax().isnan():
            return None
        code = first_of_largest(scores, largest, scratch).mul_(C + 1).add_(lab)
        code.add_(kept.neg_().add_(1), alpha=C)
        table += torch.bincount(code.to(torch.int32), minlength=len(table))
    return table.view(C + 1, C + 1)[:C, :C]
