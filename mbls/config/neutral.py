"""Settings that change no number: those that reports and grids need not find equal."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["NEUTRAL", "added_callbacks", "is_below"]

NEUTRAL = (
    *("run", "card", "results", "predictions", "stop", "nan_guard", "multipliers", "step_seed"),
    *("ckpt_path", "weights_only", "optimizer", "lr_scheduler", "checkpoint.keep"),
    *(f"data.init_args.{key}" for key in ("root", "phantom_root", "cache_dir", "predict_input")),
    *(f"data.init_args.{key}" for key in ("num_workers", "prepare_workers")),
    *(f"trainer.{key}" for key in ("accelerator", "strategy", "devices", "num_nodes", "logger")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "num_sanity_val_steps", "profiler")),
    *(f"trainer.{key}" for key in ("enable_checkpointing", "enable_progress_bar", "benchmark")),
    *(f"trainer.{key}" for key in ("enable_model_summary", "default_root_dir", "deterministic")),
    *(f"trainer.{key}" for key in ("plugins", "inference_mode", "model_registry")),
    "trainer.enable_autolog_hparams",
)
"""Where a run lies, what it shows and how fast it is; dotted names, with all below them."""
SHOWS = ("mbls.callbacks.ProgressBar", "mbls.callbacks.progress.ProgressBar")


def is_below(name: str, names: Sequence[str]) -> bool:
    """Say whether a dotted name is one of some names or below one."""
    return any(name == n or name.startswith(f"{n}.") for n in names)


def added_callbacks(config: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks that a configuration adds, as an average of weights."""
    stated = (config.get("trainer") or {}).get("callbacks") or []
    every = stated if isinstance(stated, list) else [stated]
    given = [{"class_path": one} if isinstance(one, str) else one for one in every]
    return [one for one in given if one.get("class_path") not in SHOWS]
