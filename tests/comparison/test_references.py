"""Curves of others: the original author's as published, and W&B's exports of any shape."""

import pytest

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.cli import main
from nanogpkant.comparison.references import original_curves, wandb_curves


def test_the_originals_curves_are_the_published_ones():
    curves = {curve.name: curve for curve in original_curves({"tinyshakespeare_char"})}
    assert {name: round(curve.losses.min(), 3) for name, curve in curves.items()} == {
        "original's gpkant": 1.554,
        "original's gpt": 1.537,
        "original's balanced_gpt": 1.463,
    }
    for curve in curves.values():
        assert curve.axes["steps"].tolist() == list(range(0, 5001, 250))
        assert curve.axes["tokens"][-1] == 5000 * 64 * 256
        assert "seconds" not in curve.axes
        assert "kabachuha" in curve.source
    kan, gpt = curves["original's gpkant"], curves["original's gpt"]
    assert kan.axes["flops"][-1] > 7 * gpt.axes["flops"][-1]


def test_the_originals_curves_are_of_one_text_alone():
    with pytest.raises(UsageError, match="shakespeare_all_char"):
        original_curves({"tinyshakespeare_char", "shakespeare_all_char"})


EXPORT = """\
"Step","kan - val/loss","kan - val/loss__MIN","kan - val/loss__MAX","a - b - val/loss","a - b__MIN"
"0","4.2","4.2","4.2","",""
"250","2.4","2.4","2.4","2.5","2.5"
"500","2.2","2.2","2.2","2.3","2.3"
"""


def test_an_export_of_wandb_is_read(tmp_path):
    (tmp_path / "wandb.csv").write_text("\ufeff" + EXPORT, encoding="utf-8")
    kan, other = wandb_curves(tmp_path / "wandb.csv")
    assert (kan.name, other.name) == ("kan", "a - b")
    assert kan.axes["steps"].tolist() == [0, 250, 500]
    assert kan.losses.tolist() == [4.2, 2.4, 2.2]
    assert other.axes["steps"].tolist() == [250, 500]


def test_of_several_metrics_the_validation_loss_is_taken(tmp_path):
    head = '"Step","kan - train/loss","kan - val/loss","kan - val/accuracy"\n'
    (tmp_path / "wandb.csv").write_text(head + '"5","1","2","3"\n', encoding="utf-8")
    (curve,) = wandb_curves(tmp_path / "wandb.csv")
    assert curve.losses.tolist() == [2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "another shape"),
        ("step,loss\n0,4\n", "another shape"),
        ('"Step"\n"0"\n', "another shape"),
        ('"Step","loss"\n"0","4"\n', "another shape"),
        ('"Relative Time","kan - val/loss"\n"0","4"\n', "another shape"),
        ('"Step","a - lr","a - accuracy"\n"0","4","5"\n', "another shape"),
        ('"Step","kan - val/loss"\n', "is empty"),
        ('"Step","kan - val/loss"\n"0","four"\n', "line 2: '0' and 'four'"),
        ('"Step","kan - val/loss"\n"0","nan"\n', "line 2"),
        ('"Step","kan - val/loss"\n"","4"\n', "line 2"),
    ],
)
def test_a_file_of_another_shape_is_named_in_one_line(text, words, tmp_path):
    (tmp_path / "other.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="other.csv") as caught:
        wandb_curves(tmp_path / "other.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_such_file(tiny_run, tmp_path, capsys):
    command = ["compare", str(tiny_run), "--out", str(tmp_path / "r"), "--csv", "nowhere.csv"]
    assert main(command) == 1
    assert "nowhere.csv" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
