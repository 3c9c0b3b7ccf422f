"""export, push and pull as Python functions."""

from pathlib import Path

import pytest

from nanogpkant.base.errors import UsageError
from nanogpkant.run.load import load_model
from nanogpkant.verbs.share import export, pull, push


def test_export_push_and_pull(hub, tiny_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = export(str(tiny_run), out="shared/tiny", checkpoint="last", license="mit")
    weights = Path("shared/tiny/model.safetensors")
    assert made.as_dict() == {"folder": "shared/tiny", "step": 12, "bytes": weights.stat().st_size}
    assert made.words().startswith("shared/tiny holds step 12, ")
    assert not made.on_stdout

    pushed = push("shared/tiny", repo="tiny", private=True)
    assert (pushed.repo, pushed.url) == ("me/tiny", f"{hub.url}/me/tiny")
    pulled = pull("me/tiny")
    assert (pulled.folder, pulled.step, pulled.commit) == (
        str(Path("runs/tiny")),
        12,
        pushed.commit,
    )
    assert load_model(Path(pulled.folder)).step == 12
    with pytest.raises(UsageError, match=r"--out runs.tiny: exists and is not an empty folder"):
        pull("me/tiny")


def test_bfloat16_is_not_for_onnx(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--bfloat16"):
        export("runs/none", out=str(tmp_path / "to"), format="onnx", bfloat16=True)
