"""Means over voxels of losses that look at one voxel's logits at a time, in few passes of memory.

A chunk of voxels that fits the processor's cache goes through all terms before the next one is
touched, and the gradient is the formula's own, computed when it is asked for. So the memory beside
the logits is one gradient and one number a voxel, and cross-entropy plus a penalty costs little
more than cross-entropy. Under ``torch.compile`` the plain formulas run: the compiler fuses them.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mbls.losses.masking import labelled, masked_mean

__all__ = ["Chunk", "Pointwise", "pointwise_means"]

CPU_CHUNK = 1 << 18  # numbers in a chunk for each thread: a megabyte in float32
DEVICE_CHUNK = 1 << 26


class Chunk:
    """Some voxels' logits, and what the terms share; each property is computed once, on demand.

    Args:
        logits: ``(n, C, v)``.
        label: Labels ``(n, 1, v)`` in 0 .. C - 1.
        log_norm: ``log sum_k exp z_k`` ``(n, 1, v)``, where it is known already.
    """

    def __init__(self, logits: Tensor, label: Tensor, log_norm: Tensor | None = None) -> None:
        self.logits = logits
        self.label = label
        if log_norm is not None:
            self.log_norm = log_norm

    @cached_property
    def top(self) -> Tensor:
        """The largest logit ``(n, 1, v)``."""
        return self.logits.amax(dim=1, keepdim=True)

    @cached_property
    def log_norm(self) -> Tensor:
        """``log sum_k exp z_k`` ``(n, 1, v)``."""
        total = (self.logits - self.top).exp_().sum(dim=1, keepdim=True)
        return total.log_().add_(self.top)

    @cached_property
    def log_probs(self) -> Tensor:
        """``(n, C, v)``; read only."""
        return self.logits - self.log_norm

    @cached_property
    def probs(self) -> Tensor:
        """``(n, C, v)``; read only."""
        if "log_probs" in self.__dict__:
            return self.log_probs.exp()
        return (self.logits - self.log_norm).exp_()

    @cached_property
    def label_log_probs(self) -> Tensor:
        """The label's log-probability ``(n, 1, v)``."""
        return self.logits.gather(1, self.label) - self.log_norm


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
    logits: Tensor, target: Tensor, terms: Sequence[Pointwise], *, ignore_index: int = -100
) -> list[Tensor]:
    """Return each term's mean over the labelled voxels; zero where there is none.

    Higher derivatives (``create_graph=True``) go through the plain formulas.

    Args:
        logits: Raw scores ``(N, C, *S)``, float32 or float64.
        target: Labels ``(N, *S)``, int64.
        terms: What to average.
        ignore_index: The label of voxels that take no part.

    Returns:
        One scalar a term.
    """
    if torch.compiler.is_compiling():
        keep, safe = labelled(target, ignore_index)
        return [masked_mean(term.plain(logits, safe), keep) for term in terms]
    return list(_Means.apply(logits, target, tuple(terms), ignore_index))


class _Means(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, target: Tensor, terms: tuple[Pointwise, ...], ignore_index: int
    ) -> tuple[Tensor, ...]:
        n, c = logits.shape[:2]
        voxels = math.prod(logits.shape[2:])
        z = logits.detach().reshape(n, c, voxels)
        keep = target.reshape(n, 1, voxels) != ignore_index
        safe = target.reshape(n, 1, voxels) * keep  # a product is faster than a masked fill
        weight = keep.to(z.dtype)
        weight /= keep.sum().clamp_min(1).to(z.dtype)
        norms = torch.empty_like(weight)
        sums: list[list[Tensor]] = [[z.new_zeros(())] for _ in terms]
        for at in _places(z):
            chunk = Chunk(z[at], safe[at])
            for values, term in zip(sums, terms, strict=True):
                values.append(term.value(chunk).mul_(weight[at]).sum())
            norms[at] = chunk.log_norm
        ctx.save_for_backward(logits, safe, weight, norms)
        ctx.terms, ctx.target_shape = terms, target.shape
        return tuple(torch.stack(values).sum() for values in sums)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        logits, safe, weight, norms = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph: a second derivative may follow
            maps = [term.plain(logits, safe.view(ctx.target_shape)) for term in ctx.terms]
            means = [(values * weight.view(ctx.target_shape)).sum() for values in maps]
            (slow,) = torch.autograd.grad(means, logits, upstream, create_graph=True)
            return slow, None, None, None
        z = logits.detach().reshape(*logits.shape[:2], safe.shape[-1])
        gradient = torch.empty_like(z, memory_format=torch.contiguous_format)
        for at in _places(z):
            chunk = Chunk(z[at], safe[at], norms[at])
            out = gradient[at].zero_()
            for scale, term in zip(upstream, ctx.terms, strict=True):
                term.add_gradient(chunk, weight[at] * scale, out)
        return gradient.view(logits.shape), None, None, None


def _places(z: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Cut ``(N, C, V)`` into chunks: parts of an image, or several small images."""
    n, c, v = z.shape
    on_cpu = z.device.type == "cpu"
    size = max(1, (CPU_CHUNK * torch.get_num_threads() if on_cpu else DEVICE_CHUNK) // c)
    parts = max(1, -(-v // size))
    step, images = max(1, -(-v // parts)), max(1, size // max(v, 1))
    for first in range(0, n, images):
        for start in range(0, v, step):
            yield slice(first, first + images), slice(None), slice(start, start + step)
