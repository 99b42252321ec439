"""``mbls predict``: segment NIfTI files with a run's checkpoint.

Logits are resampled to each input's grid before the softmax. With ``--config`` instead of
``--run``, all arguments are passed to LightningCLI's ``predict``.
"""

from mbls.commands.evaluate import decided_settings, run_settings
from mbls.config.ensembles import ensemble_folder
from mbls.config.moved import read_run_config
from mbls.config.options import overrides, parse, parser, to_argv
from mbls.runtime.errors import UsageError

__all__ = ["main"]


def main(args: list[str]) -> int:
    """Write a label map for each input, and optionally class probabilities."""
    of_run = "--config" not in args and not any(arg.startswith("--config=") for arg in args)
    argv = _from_run(args) if of_run else args

    from mbls.config.cli import command_line

    command_line(["predict", *argv])
    return 0


def _from_run(args: list[str]) -> list[str]:
    options, rest = parse(parser("predict", main.__doc__), args)
    if options.runs is not None:
        if options.run is not None:
            raise UsageError("Give --run, or --runs for an ensemble, not both.")
        options.run = ensemble_folder(options.runs)
    for name in ("run", "input", "output"):
        if getattr(options, name) is None:
            raise UsageError(f"--{name} is needed. See mbls predict --help.")
    settings = run_settings(options.run, options.ckpt or "best")
    config = read_run_config(options.run / "config.yaml")
    given = [*overrides(options), *rest]
    given = decided_settings(given, options.run, options.ckpt or "best", config)
    settings += [("return_predictions", "false"), *given]
    return to_argv(settings)
