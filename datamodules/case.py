"""A case, a problem with it, and the error that lists problems."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """One image volume with what belongs to it.

    Attributes:
        id: Name of the case, unique in its dataset and usable as a file name.
        patient: The patient the case is from: splits are made of patients, never of cases.
        images: Image files: NIfTI or pictures, one for each channel, or one with all channels.
        label: File with integer labels or colors, or None without one.
        posterior: ``.npz`` file with p(label | image), only known for phantoms.
        scheme: What the label's values mean, where cases differ; None for the dataset's label map.
            It must follow from the files' names and the dataset's settings.
        readers: Label files of further readers of the same image; ``label`` is the first's. What
            trains and is scored is their majority (:mod:`datamodules.reading.readers`).
        stacked: Whether the last axis of an image file is that of the channels.
        pixel_size: Size of a pixel in mm along X and Y, for pictures, whose files do not say it.
        phase: Which of a patient's cases it is, such as ED or ES of a heart; empty if that is not
            known.
    """

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None = None
    posterior: Path | None = None
    scheme: "LabelScheme | None" = None
    readers: tuple[Path, ...] = ()
    stacked: bool = False
    pixel_size: tuple[float, float] = (1.0, 1.0)
    phase: str = ""

    @property
    def label_files(self) -> tuple[Path, ...]:
        """The label files of all readers."""
        return () if self.label is None else (self.label, *self.readers)

    @property
    def sources(self) -> tuple[Path, ...]:
        """Every file that the case is read from."""
        posterior = () if self.posterior is None else (self.posterior,)
        return (*self.images, *self.label_files, *posterior)


@dataclass(frozen=True)
class LabelScheme:
    """What the values of a label file mean.

    Attributes:
        classes: Value in the file and index of its class, in pairs.
        fix: What to do about another value.
    """

    classes: tuple[tuple[int, int], ...]
    fix: str


@dataclass(frozen=True)
class Survey:
    """Content of a dataset's folder.

    Attributes:
        cases: The cases, sorted by id.
        patients: All patients that a split may contain, including those with problems.
        official_test: The patients of the dataset's own test set, if it comes with labels.
        problems: What is wrong with patients or with the folder.
        notes: What is right but should be known, printed on screen.
    """

    cases: tuple[Case, ...]
    patients: frozenset[str]
    official_test: frozenset[str] = frozenset()
    problems: tuple["Problem", ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A problem of a dataset, a patient or a case, with its fix.

    Attributes:
        case: Case or patient concerned; empty if it is the dataset as a whole.
        path: File or folder looked at.
        rule: The violated rule.
        found: What was found in its place.
        fix: The way out.
    """

    case: str
    path: str
    rule: str
    found: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.case}: " if self.case else ""
        return f"{where}{self.rule}, found {self.found} ({self.path}). {self.fix}"


class DataError(ValueError):
    """One or more problems with the data; the message lists them all.

    Attributes:
        problems: The problems, in the order in which they were found.
    """

    for_user = True  # a command line shows the message alone, without a traceback

    def __init__(self, problems: Iterable[Problem] | str) -> None:
        if isinstance(problems, str):  # torch has but the text of an error in a data worker
            self.problems: tuple[Problem, ...] = ()
            super().__init__(problems.rpartition(f"{type(self).__name__}: ")[2].strip())
            return
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems]
        head = f"{len(lines)} problems with the data:\n- " if len(lines) > 1 else ""
        super().__init__(head + "\n- ".join(lines))

    def __reduce__(self) -> tuple[type["DataError"], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)  # the default would pickle the message alone
