"""Identity of a run: the settings that affect its results, and their hash."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["RUNTIME_ONLY", "added_callbacks", "config_hash", "differences", "identity", "is_below"]

RUNTIME_ONLY = (
    *("run", "card", "results", "predictions", "stop", "nan_guard", "multipliers", "step_seed"),
    *("lines", "speed", "resumption", "diagrams", "post_hoc", "corrupt"),
    *("ckpt_path", "weights_only", "optimizer", "lr_scheduler", "checkpoint.keep"),
    *(f"data.init_args.{key}" for key in ("root", "phantom_root", "cache_dir", "predict_input")),
    *(f"data.init_args.{key}" for key in ("num_workers", "prepare_workers")),
    *(f"trainer.{key}" for key in ("accelerator", "strategy", "devices", "num_nodes", "logger")),
    *(f"trainer.{key}" for key in ("log_every_n_steps", "num_sanity_val_steps", "profiler")),
    *(f"trainer.{key}" for key in ("enable_checkpointing", "enable_progress_bar", "benchmark")),
    *(f"trainer.{key}" for key in ("enable_model_summary", "default_root_dir", "deterministic")),
    *(f"trainer.{key}" for key in ("plugins", "inference_mode", "model_registry")),
    *("trainer.enable_autolog_hparams", "model.output_device"),
)
"""Settings that do not affect results: paths, hardware, display; dotted names with all below."""
BARS = ("mbls.callbacks.ProgressBar", "mbls.callbacks.progress.ProgressBar")


def is_below(name: str, names: Sequence[str]) -> bool:
    """Return True if a dotted name is one of ``names`` or below one."""
    return any(name == n or name.startswith(f"{n}.") for n in names)


def added_callbacks(config: Mapping[str, Any]) -> list[Any]:
    """Return the callbacks that a configuration adds, such as weight averaging."""
    given = (config.get("trainer") or {}).get("callbacks") or []
    callbacks = given if isinstance(given, list) else [given]
    found = [{"class_path": one} if isinstance(one, str) else one for one in callbacks]
    return [one for one in found if one.get("class_path") not in BARS]


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a resolved configuration without the settings that do not affect results.

    The data's path is omitted; whether the data are real or a phantom is included.
    """
    found = _pruned(config)
    root = ((config.get("data") or {}).get("init_args") or {}).get("root")
    callbacks = added_callbacks(config)
    return found | {
        "data": found.get("data", {}) | {"origin": "real" if root else "phantom"},
        "trainer": found.get("trainer", {})
        | {"callbacks": [one.get("class_path") for one in callbacks]}
        | {one.get("class_path"): one.get("init_args") or {} for one in callbacks},
    }


def config_hash(config: Mapping[str, Any]) -> str:
    """Return the hash of a resolved configuration's identity; equal runs have equal hashes."""
    text = json.dumps(identity(config), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Return the differing settings, ``trainer.max_epochs is 2, not 10``.

    Settings that only one configuration has are skipped: a later version may have added them.
    """
    return list(_differences(identity(wanted), identity(found), ()))


def _pruned(config: Any, path: tuple[str, ...] = ()) -> Any:
    if not isinstance(config, Mapping):
        return config
    inner = {key: (*path, str(key)) for key in config}
    return {key: _pruned(config[key], place) for key, place in inner.items()
            if not is_below(".".join(place), RUNTIME_ONLY)}  # fmt: skip


def _differences(wanted: Any, found: Any, path: tuple[str, ...]) -> Iterator[str]:
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        for key in wanted:
            if key in found:
                yield from _differences(wanted[key], found[key], (*path, key))
    elif wanted != found:
        name = ".".join(key for key in path if key != "init_args")
        yield f"{name} is {_shown(found)}, not {_shown(wanted)}"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_shown, value)) or "none"
    return str(value.get("class_path", value)) if isinstance(value, Mapping) else str(value)
