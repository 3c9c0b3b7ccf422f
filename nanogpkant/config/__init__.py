"""The settings of a run: typed dataclasses, their YAML, and the presets."""

from nanogpkant.config.model import SITES, CurveConfig, KANConfig, ModelConfig, Site
from nanogpkant.config.settings import (
    DataConfig,
    GridConfig,
    OptimConfig,
    RunConfig,
    Tracker,
    TrackingConfig,
    TrainConfig,
    with_changes,
)
from nanogpkant.config.yaml import (
    check_yaml,
    config_from,
    field_names,
    load_config,
    load_preset,
    preset_names,
    read_yaml,
    save_config,
    settings_that_differ,
    to_yaml,
    with_settings,
)

__all__ = [
    "SITES",
    "CurveConfig",
    "DataConfig",
    "GridConfig",
    "KANConfig",
    "ModelConfig",
    "OptimConfig",
    "RunConfig",
    "Site",
    "Tracker",
    "TrackingConfig",
    "TrainConfig",
    "check_yaml",
    "config_from",
    "field_names",
    "load_config",
    "load_preset",
    "preset_names",
    "read_yaml",
    "save_config",
    "settings_that_differ",
    "to_yaml",
    "with_changes",
    "with_settings",
]
