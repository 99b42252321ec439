"""What the commands about decisions share: the counts of a run's validation and of its test."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mbls.commands.calibrate import is_tested, patient_groups_of
from mbls.commands.evaluate import main as evaluate
from mbls.commands.evaluate import run_settings, tag_of
from mbls.config.decide import FOLDER, TAG, decisions_folder
from mbls.config.ensembles import members_of, refuse_shared_validation
from mbls.config.moved import read_run_config
from mbls.config.options import Settings, to_argv
from mbls.config.runs import setting_value
from mbls.runtime.errors import RunFolderError
from mbls.runtime.files import read_card, writing

if TYPE_CHECKING:
    from mbls.evaluation import TestRun

__all__ = [
    "FOLDER",
    "Counted",
    "card_of",
    "count_validation",
    "counted",
    "decisions_folder",
    "sources",
]


@dataclass(frozen=True)
class Counted:
    """Counts to decide on, and others to report on.

    Attributes:
        run: The run folder, or that of an audit.
        tag: Name of the test.
        folder: Where decisions are written.
        test: The counts of the test.
        validation: Those of the validation patients; None for an audit, which has none.
        groups: For an audit the group of each patient: what is decided for one group follows from
            the others.
        chosen: Where decisions come from, to be printed.
    """

    run: Path
    tag: str
    folder: Path
    test: "TestRun"
    validation: "TestRun | None"
    groups: dict[str, int] | None
    chosen: str


def counted(
    run: Path, given: Settings, *, groups: int | None = None, needs: Sequence[str] = ()
) -> Counted:
    """Return the counts of a run's validation and test, from passes of the network if need be.

    Args:
        run: A run folder, or that of an audit.
        given: Settings of the validation and the test.
        groups: Number of groups of an audit's cross-fit.
        needs: Attributes of :class:`mbls.evaluation.TestRun` that must be known: counts of earlier
            versions that lack one are counted again.

    Raises:
        RunFolderError: It is not a run folder, an audit of several regions, or an audit that lacks
            what is needed.
    """
    from mbls.evaluation import TestRun

    if "audit" in card_of(run):
        file = run / "test" / TAG / "bins.npz"
        if not file.is_file():
            raise RunFolderError(
                f"{run} has no test {TAG}, only of masks by another rule: audit the predictions "
                "without DECIDE (--decide)."
            )
        test = TestRun.load(file)
        if lacking := _lacking(test, needs):
            raise RunFolderError(
                f"{run} was audited by an earlier version, which did not count {lacking}: audit "
                "the predictions again (make audit)."
            )
        own, how = patient_groups_of(test.patients, None, groups)
        chosen = f"For each case chosen without {how}."
        return Counted(run, TAG, decisions_folder(run, TAG), test, None, own, chosen)
    refuse_shared_validation(run)
    tag = tag_of(TAG, given, read_run_config(run / "config.yaml"))
    validation = count_validation(run, tag, given, needs=needs)
    file = run / "test" / tag / "bins.npz"
    tested = is_tested(file.parent, probabilities=validation.meta.get("probabilities"))
    if not tested or _lacking(TestRun.load(file), needs):
        evaluate([str(run), *to_argv([("results.show", "false"), *given])])
    number = len(set(validation.patients))
    chosen = f"Chosen on {number} validation patient{'s'[: number != 1]}."
    test = TestRun.load(file)
    return Counted(run, tag, decisions_folder(run, tag), test, validation, None, chosen)


def count_validation(
    run: Path, tag: str, given: Settings, *, needs: Sequence[str] = ()
) -> "TestRun":
    """Return the counts of the validation patients, from one pass of the network over them.

    They are kept in ``val-bins.npz`` of :func:`decisions_folder`, and counted again if a checkpoint
    or the calibrator is newer, or if they lack what is needed.
    """
    from mbls.config.cli import command_line
    from mbls.evaluation import TestRun

    file = decisions_folder(run, tag) / "val-bins.npz"
    settings = run_settings(run, TAG)
    if not _is_current(file, [*settings, *given], run) or _lacking(TestRun.load(file), needs):
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        settings += [
            ("trainer.devices", "1"),  # one process counts all cases
            ("trainer.num_nodes", "1"),
            ("post_hoc.count", str(file)),
            ("verbose", "false"),
        ]
        command_line(["validate", *to_argv([*settings, *given])])
    return TestRun.load(file)


def _is_current(file: Path, settings: Settings, run: Path) -> bool:
    """Return True if the counts of a validation are of this checkpoint and calibrator."""
    from mbls.callbacks.post_hoc import hash_of_file
    from mbls.evaluation import TestRun

    if not file.is_file() or file.stat().st_mtime < max(sources(run, settings)):
        return False
    meta, calibrator = TestRun.load(file).meta, setting_value(settings, "post_hoc.calibrator")
    fitted = None if calibrator is None else hash_of_file(Path(calibrator))
    return "probabilities" in meta and meta.get("calibrator_hash") == fitted


def _lacking(test: "TestRun", needs: Sequence[str]) -> str:
    return ", ".join(name for name in needs if getattr(test, name) is None)


def sources(run: Path, settings: Settings) -> list[float]:
    """Return when the files were written that the counts of a validation or test follow from."""
    named = [Path(value) for key, value in settings
             if value and key in ("ckpt_path", "post_hoc.calibrator")]  # fmt: skip
    members = [m if m.is_file() else m / "checkpoints" / f"{TAG}.ckpt" for m in members_of(run)]
    return [path.stat().st_mtime for path in (*named, *members) if path.is_file()]


def card_of(run: Path) -> dict[str, Any]:
    """Return the content of ``run.json``.

    Raises:
        RunFolderError: There is none.
    """
    if not (run / "run.json").is_file():
        regions = sorted(card.parent.name for card in run.glob("*/run.json"))
        hint = f" It has the regions {', '.join(regions)}: name one of them." if regions else ""
        raise RunFolderError(f"{run} is not a run folder: it has no run.json.{hint}")
    return read_card(run)
