"""What the channels of predictions stand for: classes or regions, and their values in labels."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbls.data import IGNORE_INDEX
from mbls.runtime.errors import PredictionError

__all__ = ["Channels", "channels_of_dataset", "numbered", "parse_regions", "read_dataset_json"]

_TABLE = 1 << 16  # label values within a range of this size are looked up


@dataclass(frozen=True)
class Channels:
    """Meaning of the channels of a probability map.

    Attributes:
        names: Class names, background first, or names of the regions.
        values: Label values of each channel: one of a class, any number of a region.
        regions: True if the channels are regions that may overlap, each a binary problem.
        ignored: Label value of voxels that are ignored, if there is one.
        order: Value that each region has in a label map, the last one winning; nnU-Net's
            ``regions_class_order``. None for classes, and for regions without a label map.
        unions: Named sets of classes that are scored together.
    """

    names: tuple[str, ...]
    values: tuple[tuple[int, ...], ...]
    regions: bool = False
    ignored: int | None = None
    order: tuple[int, ...] | None = None
    unions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def encode(self, data: np.ndarray, case: str) -> Tensor:
        """Return a label file's voxels ``(*S)`` as int64 classes ``(*S)`` or regions ``(R, *S)``.

        Ignored voxels are -100.

        Raises:
            PredictionError: A value is of no channel, or is not whole.
        """
        known = {value for values in self.values for value in values} | {0}
        if self.ignored is not None:
            known.add(self.ignored)
        numbers = _integers(data, known, case)
        low = min(known)
        table = np.full(max(known) - low + 1, IGNORE_INDEX, np.int64)
        if not self.regions:
            for k, (value,) in enumerate(self.values):
                table[value - low] = k
            return torch.from_numpy(table[numbers - low])
        rows = []
        for values in self.values:
            row = table * 0
            row[[value - low for value in values]] = 1
            if self.ignored is not None:
                row[self.ignored - low] = IGNORE_INDEX
            rows.append(row[numbers - low])
        return torch.from_numpy(np.stack(rows))

    def label_map(self, probs: Tensor) -> np.ndarray:
        """Return the label map ``(*S)`` of probabilities ``(C, *S)``, with the files' values.

        Of classes it is the largest probability, the first in a tie. Regions are written in order
        where they exceed 0.5, as nnU-Net does.

        Raises:
            PredictionError: The regions have no order.
        """
        return self.in_values(probs > 0.5 if self.regions else probs.argmax(dim=0))

    def in_values(self, chosen: Tensor) -> np.ndarray:
        """Return the label map ``(*S)`` of what was decided, with the files' values.

        Args:
            chosen: The class of each voxel, integers ``(*S)``, or whether it is in each region,
                bool ``(R, *S)``.

        Raises:
            PredictionError: The regions have no order.
        """
        if not self.regions:
            values = np.array([value for (value,) in self.values])
            return _smallest(values)[chosen.numpy()]
        if self.order is None:
            raise PredictionError("A label map of regions needs regions_class_order.")
        found = np.zeros(chosen.shape[1:], _smallest(np.array([0, *self.order])).dtype)
        for inside, value in zip(chosen, self.order, strict=True):
            found[inside.numpy()] = value
        return found


def numbered(
    count: int, names: Sequence[str] | None = None, values: Sequence[int] | None = None
) -> Channels:
    """Return the channels of ``count`` classes, by default with label values 0, 1, ...

    Raises:
        PredictionError: There are more or fewer names or values than classes, or a value repeats.
    """
    for what, given in (("names", names), ("label values", values)):
        if given is not None and len(given) != count:
            raise PredictionError(
                f"The predictions have {count} channels, and there are {len(given)} {what}: "
                f"{', '.join(map(str, given))}. State one a class, background first, or for "
                "overlapping regions --regions."
            )
    if values is not None and len(set(values)) < count:
        raise PredictionError(f"Label values must differ, got {', '.join(map(str, values))}.")
    usual = ["foreground"] if count == 2 else [f"class {k}" for k in range(1, count)]
    found = tuple(names) if names is not None else ("background", *usual)
    return Channels(found, tuple((v,) for v in (range(count) if values is None else values)))


def parse_regions(text: str) -> Channels:
    """Return the channels of ``"WT=1,2,3 TC=1,3 ET=3"``: names and label values of regions.

    The order in a label map is that of the channels, each with the value that no later region has.

    Raises:
        PredictionError: The text has another form.

    Example:
        >>> parse_regions("WT=1,2,3 TC=1,3 ET=3").order
        (2, 1, 3)
    """
    names, values = [], []
    for part in text.split():
        name, equals, listed = part.partition("=")
        numbers = listed.split(",")
        if not name or not equals or not all(n.strip().isdecimal() for n in numbers):
            raise PredictionError(
                f'Regions must be written as "WT=1,2,3 TC=1,3 ET=3", got {part!r}: a name and its '
                "label values each, in the order of the channels."
            )
        names.append(name)
        values.append(tuple(int(number) for number in numbers))
    if not names or len(set(names)) < len(names):
        raise PredictionError(f"Regions must have names that differ, got {text!r}.")
    order = []
    for k, own in enumerate(values):
        later = {value for other in values[k + 1 :] for value in other}
        order.append(next((value for value in own if value not in later), own[0]))
    return Channels(tuple(names), tuple(values), regions=True, order=tuple(order))


def read_dataset_json(path: Path) -> dict[str, Any]:
    """Return the content of a ``dataset.json``.

    Raises:
        PredictionError: It is not JSON, or has no table of labels.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise PredictionError(f"{path} cannot be read ({error}). Restore it.") from error
    if not isinstance(content, dict) or not isinstance(content.get("labels"), dict):
        raise PredictionError(
            f'{path} must have "labels", such as {{"background": 0, "liver": 1}}. Restore it, or '
            "move it away and state --label-values."
        )
    return content


def channels_of_dataset(content: Mapping[str, Any], *, regions: bool) -> Channels:
    """Return the channels of a ``dataset.json`` of nnU-Net v2 or the Decathlon.

    Args:
        content: The file's content.
        regions: True if labels of several values are channels of their own, as nnU-Net trains
            them; False for exclusive classes, of which they are unions.

    Raises:
        PredictionError: The labels have another form.

    Example:
        >>> labels = {"background": 0, "tumor": [1, 2], "core": 2}
        >>> channels_of_dataset({"labels": labels}, regions=False).names
        ('background', 'label 1', 'core')
        >>> channels_of_dataset({"labels": labels, "regions_class_order": [1, 2]}, regions=True)
        Channels(names=('tumor', 'core'), values=((1, 2), (2,)), regions=True, ignored=None, \
order=(1, 2), unions={})
    """
    stated = dict(content["labels"])
    if stated and all(str(key).lstrip("-").isdecimal() for key in stated):  # of the Decathlon
        stated = {str(name): int(value) for value, name in stated.items()}
    labels: dict[str, tuple[int, ...]] = {}
    for name, value in stated.items():
        many = value if isinstance(value, list) else [value]
        if not many or not all(str(one).lstrip("-").isdecimal() for one in many):
            raise PredictionError(f"Labels must be integers or lists of them, got {name}: {value}.")
        labels[name] = tuple(int(one) for one in many)
    ignored = labels.pop("ignore", (None,))[0]
    several = {name: own for name, own in labels.items() if len(set(own)) > 1}
    if regions and several:
        inside = {name: own for name, own in labels.items() if set(own) != {0}}
        order = content.get("regions_class_order")
        if not isinstance(order, list) or len(order) != len(inside):
            raise PredictionError(
                f"regions_class_order of dataset.json must have {len(inside)} values, one for each "
                f"of {', '.join(inside)}, got {order}."
            )
        kept = tuple(int(value) for value in order)
        return Channels(tuple(inside), tuple(inside.values()), True, ignored, kept)
    named = {own[0]: name for name, own in reversed(labels.items()) if len(set(own)) == 1}
    values = sorted({0} | {value for own in labels.values() for value in own})
    names = [named.get(v, f"label {v}" if v else "background") for v in values]
    place = {value: k for k, value in enumerate(values)}
    unions = {name: tuple(sorted({place[v] for v in own})) for name, own in several.items()}
    return Channels(
        tuple(names), tuple((v,) for v in values), ignored=ignored, unions=unions
    )  # fmt: skip


def _integers(data: np.ndarray, known: set[int], case: str) -> np.ndarray:
    """Return whole label values; refuse all that are not known."""
    with np.errstate(invalid="ignore"):
        numbers = data if data.dtype.kind in "iu" else data.astype(np.int64)
        whole = data.dtype.kind in "iu" or bool((numbers == data).all())
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    inside = max(known) - min(known) < _TABLE and min(known) <= low and high <= max(known)
    if whole and inside:
        gaps = set(range(low, high + 1)) - known
        if not gaps or not np.isin(numbers, sorted(gaps)).any():
            return numbers.astype(np.int64)
    found = np.unique(data)
    others = [f"{value:g}" for value in found if float(value) not in known][:5]
    raise PredictionError(
        f"{case}: the label has values {', '.join(others)}, which are of no channel: there are "
        f"{', '.join(map(str, sorted(known)))}. State the values of the classes in the order of "
        'the channels, LABEL_VALUES="0,1,2,4" (--label-values), or correct the labels.'
    )


def _smallest(values: np.ndarray) -> np.ndarray:
    """Return values in the smallest type that holds them, as label maps are written."""
    types = (np.uint8, np.int16, np.int32, np.int64)
    low, high = values.min(), values.max()
    fits = (t for t in types if np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return values.astype(next(fits))
