"""Means over voxels of losses that look at one voxel's logits at a time, in few passes of memory.

A chunk of voxels that fits the processor's cache goes through all terms before the next one is
touched, and the gradient is the formula's own. On the CPU it is taken along with the value, so that
the logits are read once; elsewhere it is computed when it is asked for. So the memory beside the
logits is one gradient, and cross-entropy plus a penalty costs little more than cross-entropy.
Under ``torch.compile`` the plain formulas run: the compiler fuses them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mbls.losses._inputs import free_to_look
from mbls.losses._masking import labelled, masked_mean
from mbls.runtime.scratch import Scratch

__all__ = ["Chunk", "Pointwise", "places", "pointwise_means"]

CPU_CHUNK = 1 << 17  # numbers in a chunk for each thread: half a megabyte in float32
DEVICE_CHUNK = 1 << 26


class Chunk:
    """Some voxels' logits, and what the terms share; each property is computed once, on demand.

    All are read only, and gone with the next chunk.

    Args:
        logits: ``(n, C, v)``.
        label: Labels ``(n, 1, v)`` in 0 .. C - 1.
        scratch: Memory for the work.
        place: Which part of ``(N, ?, V)`` it is, for a term that keeps more than the logits.

    Attributes:
        kept: What a term's value leaves for its own gradient, which comes right after it.
    """

    def __init__(
        self, logits: Tensor, label: Tensor, scratch: Scratch, place: tuple[slice, slice, slice]
    ) -> None:
        self.logits = logits
        self.label = label
        self.scratch = scratch
        self.place = place
        self.kept: dict[Pointwise, Tensor] = {}

    def buffer(self, name: str) -> Tensor:
        """Return memory of the shape of the logits; the next call of that name overwrites it."""
        return self.scratch(name, tuple(self.logits.shape), self.logits.dtype)

    @cached_property
    def behind(self) -> Tensor:
        """Each logit minus the largest ``(n, C, v)``: 0 for the winner, else negative."""
        top = self.logits.amax(dim=1, keepdim=True)
        return torch.sub(self.logits, top, out=self.buffer("behind"))

    @cached_property
    def exps(self) -> Tensor:
        """``exp(behind)`` ``(n, C, v)``."""
        return torch.exp(self.behind, out=self.buffer("exps"))

    @cached_property
    def total(self) -> Tensor:
        """The sum of :attr:`exps` ``(n, 1, v)``."""
        return self.exps.sum(dim=1, keepdim=True)

    @cached_property
    def log_total(self) -> Tensor:
        """The logarithm of :attr:`total` ``(n, 1, v)``."""
        return self.total.log()

    @cached_property
    def probs(self) -> Tensor:
        """``(n, C, v)``."""
        return torch.div(self.exps, self.total, out=self.buffer("probs"))

    @cached_property
    def log_probs(self) -> Tensor:
        """``(n, C, v)``."""
        return torch.sub(self.behind, self.log_total, out=self.buffer("log_probs"))

    @cached_property
    def label_log_probs(self) -> Tensor:
        """The label's log-probability ``(n, 1, v)``."""
        return self.behind.gather(1, self.label).sub_(self.log_total)


class Pointwise(ABC):
    """One term: its plain formula, and the same value and gradient on a chunk."""

    @abstractmethod
    def plain(self, logits: Tensor, safe: Tensor) -> Tensor:
        """Return the map ``(N, *S)`` for logits ``(N, C, *S)`` and labels in 0 .. C - 1."""

    @abstractmethod
    def value(self, chunk: Chunk) -> Tensor:
        """Return the map ``(n, 1, v)``, a tensor of its own."""

    @abstractmethod
    def add_gradient(self, chunk: Chunk, weight: Tensor, gradient: Tensor) -> None:
        """Add the derivative by the logits times ``weight`` ``(n, 1, v)`` to ``(n, C, v)``."""


def pointwise_means(
    logits: Tensor,
    target: Tensor,
    terms: Sequence[Pointwise],
    *,
    factors: Sequence[float] | None = None,
    ignore_index: int = -100,
) -> list[Tensor]:
    """Return each term's mean over the labelled voxels; zero where there is none.

    Higher derivatives (``create_graph=True``) go through the plain formulas; the transforms of
    ``torch.func`` are refused.

    Args:
        logits: Raw scores ``(N, C, *S)``, float32 or float64.
        target: Labels ``(N, *S)``, int64.
        terms: What to average.
        factors: What each mean is multiplied by; None for 1. It costs nothing here, and on the CPU
            one pass more where the results are weighted differently afterwards.
        ignore_index: The label of voxels that take no part.

    Returns:
        One scalar a term.
    """
    factors = (1.0,) * len(terms) if factors is None else tuple(factors)
    if torch.compiler.is_compiling():
        keep, safe = labelled(target, ignore_index)
        means = [masked_mean(term.plain(logits, safe), keep) for term in terms]
        return [factor * mean for factor, mean in zip(factors, means, strict=True)]
    return list(_Means.apply(logits, target, tuple(terms), factors, ignore_index))


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        target: Tensor,
        terms: tuple[Pointwise, ...],
        factors: tuple[float, ...],
        ignore_index: int,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(logits, target)
        ctx.settings = terms, factors, ignore_index
        at_once = ctx.needs_input_grad[0] and free_to_look(logits)
        means, ctx.gradient = _run(
            logits, target, terms, factors, ignore_index, values=True, gradient=at_once
        )
        return tuple(means)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, target = ctx.saved_tensors
        terms, factors, ignore_index = ctx.settings
        nothing = (None,) * 4
        if torch.is_grad_enabled():  # create_graph: a second derivative may follow
            keep, safe = labelled(target, ignore_index)
            means = [masked_mean(term.plain(logits, safe), keep) for term in terms]
            scaled = [factor * mean for factor, mean in zip(factors, means, strict=True)]
            (slow,) = torch.autograd.grad(scaled, logits, upstream, create_graph=True)
            return slow, *nothing
        ready, ctx.gradient = ctx.gradient, None  # a second backward computes it anew
        if ready is not None and all(bool(scale == upstream[0]) for scale in upstream):
            return ready if bool(upstream[0] == 1) else ready.mul_(upstream[0]), *nothing
        scales = [factor * scale for factor, scale in zip(factors, upstream, strict=True)]
        _, gradient = _run(logits, target, terms, scales, ignore_index, values=False, gradient=True)
        return gradient, *nothing


def _run(
    logits: Tensor,
    target: Tensor,
    terms: Sequence[Pointwise],
    factors: Sequence[float | Tensor],
    ignore_index: int,
    *,
    values: bool,
    gradient: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """Return the terms' means times their factors, the gradient of their sum, or both."""
    n, c = logits.shape[:2]
    z = logits.detach().reshape(n, c, math.prod(logits.shape[2:]))
    safe, weight = _weights(target, ignore_index, z)
    found = torch.empty_like(z, memory_format=torch.contiguous_format) if gradient else None
    sums: list[list[Tensor]] = [[z.new_zeros(())] for _ in terms]
    scratch = Scratch(z.device)
    for at in places(z):
        chunk = Chunk(z[at], safe[at], scratch, at)
        part = None if found is None else found[at].zero_()
        for mine, term, factor in zip(sums, terms, factors, strict=True):
            share = weight[at] * factor
            if values:
                mine.append(term.value(chunk).mul_(share).sum())
            if part is not None:
                term.add_gradient(chunk, share, part)
    means = [torch.stack(mine).sum() for mine in sums] if values else []
    return means, None if found is None else found.view(logits.shape)


def _weights(target: Tensor, ignore_index: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return labels in 0 .. C - 1 and each voxel's weight in the mean, ``(N, 1, V)`` both."""
    n, _, v = like.shape
    labels = target.reshape(n, 1, v)
    if free_to_look(labels) and labels.numel():  # a look costs less than a mask
        low, high = torch.aminmax(labels)
        if not int(low) <= ignore_index <= int(high):
            return labels, like.new_full((), 1 / labels.numel()).expand(n, 1, v)
    keep = labels != ignore_index
    weight = keep.to(like.dtype)
    weight /= keep.sum().clamp_min(1).to(like.dtype)
    return labels * keep, weight  # a product is faster than a masked fill


def places(z: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Cut ``(N, C, V)`` into chunks: parts of an image, or several small images."""
    n, c, v = z.shape
    on_cpu = z.device.type == "cpu"
    size = max(1, (CPU_CHUNK * torch.get_num_threads() if on_cpu else DEVICE_CHUNK) // c)
    parts = max(1, -(-v // size))
    step, images = max(1, -(-v // parts)), max(1, size // max(v, 1))
    for first in range(0, n, images):
        for start in range(0, v, step):
            yield slice(first, first + images), slice(None), slice(start, start + step)
