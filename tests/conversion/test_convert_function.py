"""convert as a Python function, and the function that training starts from."""

from pathlib import Path

import pytest
import torch

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.config import with_changes
from nanogpkant.conversion import start_from
from nanogpkant.data import TokenData
from nanogpkant.model.gpt import GPT
from nanogpkant.run.load import load_model
from nanogpkant.verbs.convert import convert


def test_settings_are_dotted_or_nested(plain_run: Path, tmp_path: Path) -> None:
    kan = {"sites": ["mlp_out"], "spline_scale": True}
    made = convert(str(plain_run), out=str(tmp_path / "a"), model={"kan": kan})
    dotted = {f"model.kan.{key}": value for key, value in kan.items()}
    again = convert(str(plain_run), out=str(tmp_path / "b"), **dotted)
    assert made.largest_change_of_logits < 1e-5
    assert made.as_dict() | {"run": again.run} == again.as_dict()
    assert f"{made.run}: 0.02M parameters; its logits differ by " in made.words()
    assert not made.on_stdout
    with pytest.raises(UsageError, match=r"model\.kan\.sites"):
        convert(str(plain_run), out=str(tmp_path / "c"), **{"model.kan.site": []})


def test_training_starts_from_a_run(plain_run: Path) -> None:
    trained = load_model(plain_run)
    data = TokenData.open(Path(trained.config.data.dir) / trained.config.data.dataset)
    config = with_changes(trained.config, **{"train.init_from": str(plain_run)})
    kan = {"kan.sites": ["mlp_out"], "kan.base": "gpt"}
    model = GPT(with_changes(trained.config.model, **kan), trained.tokenizer.vocab_size)
    start_from(model, config, data)
    idx = torch.randint(trained.tokenizer.vocab_size, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(idx), trained.model(idx), rtol=1e-5, atol=1e-5)
    other = GPT(with_changes(trained.config.model, n_layer=1), trained.tokenizer.vocab_size)
    with pytest.raises(UserError, match=r"--train\.init_from .*: it has --model\.n_layer 2"):
        start_from(other, config, data)
