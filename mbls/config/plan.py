"""Settings that a dataset chooses from its files, written into a run's configuration."""

import pkgutil

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningDataModule

from mbls.runtime.errors import setting_errors

__all__ = ["fill_img_size", "fill_plan"]


def fill_plan(data: Namespace) -> None:
    """Write the arguments that a datamodule chooses from its files into its configuration.

    These are those of its property ``planned``, a dict; a datamodule without it is left as it is.
    A run that is resumed, tested or used for predictions has them in its config.yaml, so it does
    not change when cases are added.

    Args:
        data: ``class_path`` and ``init_args`` of the datamodule; changed in place.

    Raises:
        SettingError: The datamodule rejects a setting.
        DataError: The files cannot be read.
    """
    if not hasattr(pkgutil.resolve_name(data.class_path), "planned"):
        return
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data", required=True)
    config = parser.parse_object({"data": data.as_dict()})
    with setting_errors():
        datamodule = parser.instantiate(config).data
    for name, value in datamodule.planned.items():
        group = isinstance(data.init_args.get(name), Namespace)  # a dataclass
        data.init_args[name] = Namespace(value) if group else value


def fill_img_size(config: Namespace) -> None:
    """Give the patch size to a network that takes it as ``img_size``, unless it is given.

    Args:
        config: The configuration of a run; changed in place.
    """
    network = config.model.network.get("init_args") or Namespace()
    sampling = config.data.init_args.get("sampling")
    if "img_size" in network and network.img_size is None and isinstance(sampling, Namespace):
        network["img_size"] = list(sampling.patch_size)
