"""What all calibrators share: applying them in pieces, and their JSON file."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from mbls.runtime.errors import CalibratorError
from mbls.runtime.files import replace_file

__all__ = ["VERSION", "Calibrator", "Card"]

VERSION = 1
"""Version of the JSON file."""
FORMAT = "mbls calibrator"
PIECE_VALUES = 1 << 18
"""Maximum values of a piece: a few of them fit the cache."""
FIT_AGAIN = "Fit it again with mbls calibrate"


@dataclass(frozen=True)
class Card:
    """What a calibrator was fitted to.

    Attributes:
        class_names: Names of the classes, background first.
        cases: Names of the cases.
        patients: Names of the patients, sorted.
        report: Results of the fit, of plain numbers, texts, lists and dicts.
    """

    class_names: tuple[str, ...]
    cases: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    report: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.class_names)


@dataclass(frozen=True, eq=False)
class Calibrator(ABC):
    """A map from predicted to calibrated log-probabilities.

    A subclass is a frozen dataclass whose further fields are its parameters: floats, or tuples of
    them, nested as needed.

    Attributes:
        card: What it was fitted to.
        method: Its name.
        needs_image: True if :meth:`apply` needs the image.
        keeps_labels: True if the class of the highest probability never changes.
    """

    card: Card
    method: ClassVar[str] = ""
    needs_image: ClassVar[bool] = False
    keeps_labels: ClassVar[bool] = False

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return self.card.num_classes

    @property
    def report(self) -> Mapping[str, Any]:
        """Results of the fit."""
        return self.card.report

    @abstractmethod
    def map(self, log_probs: Tensor) -> Tensor:
        """Return calibrated log-probabilities ``(C, *S)`` of a piece, float32 or float64."""

    @torch.no_grad()
    def apply(
        self, log_probs: Tensor, image: Tensor | None = None, *, dim: int | None = None
    ) -> Tensor:
        """Return calibrated log-probabilities; a large map needs little extra memory.

        Args:
            log_probs: Log-probabilities ``(N, C, *S)`` or ``(C, *S)``, on any device.
            image: Image ``(N, M, *S)`` or ``(M, *S)``, if :attr:`needs_image`.
            dim: Axis of the classes, 0 or 1; None finds it by its length.

        Returns:
            A new tensor of the same shape and dtype.

        Raises:
            CalibratorError: Another number of classes, or no image where it is needed.
        """
        if self.needs_image and image is None:
            raise CalibratorError(
                f"The calibrator {self.method} needs the image of each case, got none: apply it "
                "where the network predicts (mbls predict, mbls evaluate), or use temperature."
            )
        result = torch.empty_like(log_probs)
        batched = self._class_axis(log_probs, dim) == 1
        if not batched:
            log_probs, written = log_probs[None], result[None]
            image = image if image is None else image[None]
        else:
            written = result
        for position, (source, target) in enumerate(zip(log_probs, written, strict=True)):
            self._apply_case(source, target, None if image is None else image[position])
        return result

    def _apply_case(self, source: Tensor, target: Tensor, image: Tensor | None) -> None:
        """Write the calibrated log-probabilities of a case ``(C, *S)`` into ``target``."""
        for piece, written in views(source, target):
            wide = piece if piece.dtype == torch.float64 else piece.float()
            written.copy_(self.map(wide))

    def _class_axis(self, log_probs: Tensor, dim: int | None) -> int:
        axes = range(min(2, log_probs.ndim)) if dim is None else (dim,)
        found = [axis for axis in axes if log_probs.shape[axis] == self.num_classes]
        if len(found) == 1:
            return found[0]
        shape = tuple(log_probs.shape)
        if found:
            raise CalibratorError(
                f"The axis of the {self.num_classes} classes is ambiguous in {shape}: state dim=1 "
                "for (N, C, *S), or dim=0 for (C, *S)."
            )
        raise CalibratorError(
            f"The calibrator is of {self.num_classes} classes {self.card.class_names}, got "
            f"log-probabilities of shape {shape}: they must be (N, C, *S) or (C, *S). {FIT_AGAIN} "
            "on predictions of the same classes."
        )

    # The file ------------------------------------------------------------------------------------

    def parameters(self) -> dict[str, Any]:
        """Return the parameters, of floats and lists."""
        own = {each.name for each in fields(Calibrator)}
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in own}

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "method": self.method,
            "num_classes": self.num_classes,
            "class_names": list(self.card.class_names),
            "cases": list(self.card.cases),
            "patients": list(self.card.patients),
            "parameters": self.parameters(),
            "report": dict(self.card.report),
        }

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> "Calibrator":
        """Return the calibrator of a file's content.

        Raises:
            CalibratorError: Unknown version or method, or parameters that do not match.
        """
        from mbls.posthoc.methods import calibrator_class

        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            raise CalibratorError(
                f"A calibrator's file must state the format {FORMAT!r}: this is another file. "
                f"{FIT_AGAIN}."
            )
        if content.get("version") != VERSION:
            raise CalibratorError(
                f"A calibrator of version {content.get('version')!r} cannot be read, version "
                f"{VERSION} can. {FIT_AGAIN}, or update mbls."
            )
        kind = calibrator_class(content.get("method"))
        try:
            card = Card(
                tuple(map(str, content["class_names"])), tuple(content["cases"]),
                tuple(content["patients"]), content["report"],
            )  # fmt: skip
            if card.num_classes != content["num_classes"]:
                raise ValueError(f"{content['num_classes']} classes with {card.num_classes} names")
            return kind.from_parameters(card, content["parameters"])
        except (KeyError, TypeError, ValueError) as error:
            raise CalibratorError(
                f"The parameters of the calibrator {content.get('method')!r} are damaged: {error}. "
                f"{FIT_AGAIN}."
            ) from error

    @classmethod
    def from_parameters(cls, card: Card, parameters: Mapping[str, Any]) -> Self:
        """Return a calibrator from :meth:`parameters`."""
        return cls(card, **{name: _frozen(value) for name, value in parameters.items()})

    def save(self, path: Path) -> None:
        """Write the JSON file.

        Raises:
            OutputError: It cannot be written.
        """
        text = json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"
        replace_file(path, text.encode())

    @staticmethod
    def load(path: Path) -> "Calibrator":
        """Read a JSON file.

        Raises:
            CalibratorError: There is no such file, or it is not that of a calibrator.
        """
        try:
            content = json.loads(Path(path).read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise CalibratorError(
                f"{path} must be the JSON file of a calibrator: {error}. {FIT_AGAIN}."
            ) from error
        try:
            return Calibrator.from_json(content)
        except CalibratorError as error:
            raise CalibratorError(f"{path}: {error}") from error

    def reported(self, **results: Any) -> Self:
        """Return a copy with further results in its report."""
        report = {**self.card.report, **results}
        return replace(self, card=replace(self.card, report=report))


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def check_numbers(name: str, values: Any, length: int, *, above: float = -math.inf) -> None:
    """Raise ValueError unless there are so many finite numbers above a limit."""
    if not isinstance(values, tuple) or len(values) != length:
        raise ValueError(f"{name} must be {length} numbers, got {values!r:.80}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{name} must be numbers, got {value!r:.80}")
        if not (math.isfinite(value) and value > above):
            raise ValueError(f"{name} must be finite and above {above}, got {value}")


def views(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Split tensors ``(c, *S)`` of one ``S`` alike, without copying: pieces can be written to."""
    first = tensors[0]
    length = max(1024, PIECE_VALUES // max(each.shape[0] for each in tensors))
    if first.ndim == 1 or first[0].numel() <= length:
        yield tensors
    elif first.ndim == 2 or all(each.is_contiguous() for each in tensors):
        flat = [each.view(each.shape[0], -1).split(length, dim=1) for each in tensors]
        yield from zip(*flat, strict=True)
    else:  # such as permuted in memory
        for slabs in zip(*(each.unbind(dim=1) for each in tensors), strict=True):
            yield from views(*slabs)
