"""Configurations: defaults, checks, YAML and back."""

import json
import math

import pytest

from nanogpkant.base.errors import UsageError
from nanogpkant.cli import main
from nanogpkant.config import (
    KANConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    config_from,
    load_config,
    load_preset,
    preset_names,
    save_config,
    with_changes,
    with_settings,
)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_survives_a_trip_to_yaml(name, tmp_path):
    _, config = load_preset(name)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config


def test_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text("", encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == RunConfig()


def test_yaml_numbers_are_read_as_the_field_wants(tmp_path):
    text = "optim: {learning_rate: 1e-3, grad_clip: 1, kan_weight_decay: null}\n"
    (tmp_path / "config.yaml").write_text(text, encoding="utf-8")
    optim = load_config(tmp_path / "config.yaml").optim
    assert (optim.learning_rate, optim.grad_clip, optim.kan_weight_decay) == (1e-3, 1.0, None)
    assert isinstance(optim.grad_clip, float)


def test_changes_reach_nested_fields_and_are_checked():
    config = with_changes(RunConfig(), **{"model.kan.grid_size": 9, "about": "x"})
    assert (config.model.kan.grid_size, config.about) == (9, "x")
    assert RunConfig().model.kan.grid_size == 5
    with pytest.raises(UsageError, match="grid_size 0"):
        with_changes(config, **{"model.kan.grid_size": 0})


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ModelConfig(n_embd=10, n_head=4), "12 would be|8 would be"),
        (lambda: KANConfig(grid_range=(0.0, math.inf)), "grid_range"),
        (lambda: config_from({"model": {"kan": {"sites": "qkv"}}}), r"a list such as \[a, b\]"),
        (lambda: config_from({"model": {"kan": {"grid_range": 3}}}), r"two numbers such as \["),
        (lambda: OptimConfig(beta2=1.0), "beta2 1.0"),
        (lambda: OptimConfig(weight_decay=math.nan), "weight_decay nan"),
        (lambda: OptimConfig(kan_weight_decay=-1.0), "kan_weight_decay"),
        (lambda: TrainConfig(seed=-1), "seed -1"),
        (lambda: OptimConfig(lr_decay_iters=50), "above --optim.warmup_iters 100"),
    ],
)
def test_what_cannot_work_is_refused_in_python_too(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_the_original_recipe_is_in_its_presets():
    for name in preset_names():
        if "micro" in name or "matched" in name:
            _, config = load_preset(name)
            o, t, m = config.optim, config.train, config.model
            assert (t.batch_size, m.block_size, t.max_iters, t.eval_interval) == (
                64,
                256,
                5000,
                250,
            )
            assert (o.learning_rate, o.min_lr, o.warmup_iters) == (1e-3, 1e-4, 100)
            assert (o.beta1, o.beta2, o.weight_decay, o.grad_clip) == (0.9, 0.99, 0.1, 1.0)
            assert (m.dropout, m.bias, m.n_embd, m.n_head) == (0.2, False, 192, 6)


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("model.n_layers", "model.n_layer"),
        ("n_layer", "model.n_layer"),
        ("xyzzy", "--help"),
        ("learning_rat", "optim.learning_rate"),
        ("model.kan.gridsize", "model.kan.grid_size"),
    ],
)
def test_unknown_keys_are_answered_with_the_nearest(key, meant):
    with pytest.raises(UsageError) as refused:
        with_settings(RunConfig(), {key: 1})
    assert meant in str(refused.value)


def test_gated_of_earlier_versions_is_swiglu(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {mlp: gated}\n", encoding="utf-8")
    config = load_config(tmp_path / "config.yaml")
    assert config == with_changes(RunConfig(), **{"model.activation": "swiglu"})
    assert ModelConfig(activation="gated") == ModelConfig(activation="swiglu") == config.model
    assert config.model.activation == "swiglu"


def test_a_retired_setting_that_changed_nothing_is_read(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("train: {formulas: fixed}\n", encoding="utf-8")
    assert load_config(file) == RunConfig()
    file.write_text("train: {formulas: start}\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"unknown key train\.formulas"):
        load_config(file)


def test_a_run_of_earlier_versions_with_gated(tiny_experiment, tmp_path, capsys):
    run = tmp_path / "run"
    flags = ["--model.activation", "swiglu", "--train.max_iters", "2", "--out", str(run)]
    assert main(["train", str(tiny_experiment), *flags]) == 0
    losses = []
    for mlp in ("swiglu", "gated"):
        text = (run / "config.yaml").read_text(encoding="utf-8")
        (run / "config.yaml").write_text(text.replace("activation: swiglu", f"mlp: {mlp}"), "utf-8")
        capsys.readouterr()
        assert main(["eval", str(run), "--json"]) == 0
        losses.append(json.loads(capsys.readouterr().out)["loss"])
    assert losses[0] == losses[1]
