"""``import nanogpkant as ng``: light, complete, and the same functions as the commands."""

import doctest
import importlib
import inspect
import shutil
import subprocess
import sys

import pytest
import torch

import nanogpkant as ng
from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UserError
from nanogpkant.cli import VERBS, function_of
from nanogpkant.generation import generate

VERB_MODULES = sorted({f"nanogpkant.verbs.{target.split(':')[0]}" for target in VERBS.values()})


def test_import_loads_nothing_heavy():
    code = (
        "import sys, nanogpkant; assert not {'torch', 'numpy', 'jsonargparse'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_listed():
    assert set(ng.__all__) <= set(dir(ng))
    for name in ng.__all__:
        assert getattr(ng, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = ng.nothing


@pytest.mark.parametrize("verb", VERBS)
def test_a_command_is_a_documented_function_of_that_name(verb):
    function = function_of(verb)
    assert getattr(ng, function.__name__) is function
    signature = inspect.signature(function)
    annotation = signature.return_annotation  # a name where the class would bring torch
    assert isinstance(annotation, str) or issubclass(annotation, Answer)
    assert "Args:" in function.__doc__ or not signature.parameters
    assert ">>>" in function.__doc__


@pytest.fixture
def newcomer(tiny_run, tiny_experiment, tmp_path, monkeypatch):
    """A folder with the runs that the examples name."""
    for name in ("quickstart_kan", "quickstart_gpt"):
        shutil.copytree(tiny_run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("name", [*VERB_MODULES, "nanogpkant.verbs.load", "nanogpkant.kan.layer"])
def test_the_examples_run(name, newcomer):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


def test_a_loaded_run_writes_what_the_command_writes(tiny_run):
    model = ng.load(str(tiny_run), device="cpu")
    text = model.generate("Speak", tokens=20, temperature=0.7, seed=5)
    prompt = torch.as_tensor(model.tokenizer.encode("Speak").astype("int64"))[None]
    ids = [int(i) for i in generate(model.model, prompt, 20, temperature=0.7, seed=5)]
    assert text == model.tokenizer.decode(ids)
    answer = ng.sample(
        str(tiny_run), prompt="Speak", tokens=20, temperature=0.7, seed=5, device="cpu"
    )
    assert answer.texts == [text]


def test_a_loaded_run_is_measured_on_a_split_or_a_text(tiny_run):
    model = ng.load(str(tiny_run), device="cpu")
    by_command = ng.evaluate(str(tiny_run), device="cpu")
    assert model.evaluate().loss == pytest.approx(by_command.loss, rel=1e-6)
    text = "Speak, friend, and enter.\n" * 4
    assert model.evaluate(text).tokens == len(text) - 1
    with pytest.raises(UserError, match="the text"):
        model.evaluate("a")


def test_edges_are_those_of_the_layer(tiny_run):
    model = ng.load(str(tiny_run), device="cpu")
    x, y = model.edges("blocks.0.mlp.into")
    layer = model.model.get_submodule("blocks.0.mlp.into")
    assert y.shape == (len(x), layer.out_features, layer.in_features)
    torch.testing.assert_close(y.sum(-1)[3], layer(x[3].expand(layer.in_features)[None])[0])
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.into"):
        model.edges("blocks.9")


def test_settings_are_dotted_or_nested(tiny_experiment, tmp_path):
    kept = {"train.max_iters": 2, "train.eval_interval": 2}
    ng.train(str(tiny_experiment), out=str(tmp_path / "a"), **kept)
    ng.train(
        str(tiny_experiment), out=str(tmp_path / "b"), train={"max_iters": 2, "eval_interval": 2}
    )
    a, b = (ng.load(str(tmp_path / name)).model.state_dict() for name in "ab")
    assert all(torch.equal(a[key], b[key]) for key in a)
    with pytest.raises(UserError, match=r"did you mean train\.max_iters"):
        ng.train(str(tiny_experiment), out=str(tmp_path / "c"), **{"train.max_itres": 2})


def test_a_result_prints_as_words_and_says_how_it_was_made(tmp_path):
    code = "import nanogpkant as ng; print(ng.presets())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "quickstart_kan" in printed and "Listing(" not in printed
    script = tmp_path / "mine.py"
    script.write_text("from nanogpkant.base.answer import command_line; print(command_line())")
    printed = subprocess.run([sys.executable, script], capture_output=True, text=True).stdout
    assert printed == "called from Python\n"
