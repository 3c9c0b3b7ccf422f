"""Corpora of the Hub, with a folder of Parquet files in its place: the network is never used."""

import json
import sys
import threading
import urllib.error
import urllib.request

import numpy as np
import pytest

from nanogpkant.base.errors import UserError
from nanogpkant.data import TokenData, encode, ensure, network, prepare

datasets = pytest.importorskip("datasets")

TEXTS = [f"Once upon a time there was story {number}." for number in range(600)]
BYTES = {"tokenizer": "byte", "val_fraction": 0.2}


def texts_of(data: TokenData) -> dict[str, list[str]]:
    return {
        name: np.asarray(split).tobytes().decode().split("\0")[:-1]
        for name, split in data.splits.items()
    }


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("name", ["tinystories", "openwebtext", "fineweb_edu"])
def test_every_document_in_one_split(tmp_path, name):
    folder = prepare(name, tmp_path / "data", **BYTES)
    data = TokenData.open(folder)
    found = texts_of(data)
    assert sorted(found["train"] + found["val"]) == sorted(TEXTS)
    assert 80 < len(found["val"]) < 160
    assert data.meta["source"].endswith("on the Hugging Face Hub")
    assert prepare(name, tmp_path / "data", **BYTES) == folder
    assert ensure(name, tmp_path / "data") == folder


def test_the_tokens_are_those_of_the_files(hub, tmp_path):
    from_hub = TokenData.open(prepare("tinystories", tmp_path / "data", **BYTES))
    from_files = TokenData.open(prepare("own", tmp_path / "data", hub, **BYTES))
    assert from_hub.fingerprint == from_files.fingerprint


def test_a_broken_stream_is_gone_on_with(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "BATCH", 500)
    monkeypatch.setattr(encode, "FLUSH", 2000)
    whole = prepare("tinystories", tmp_path / "whole", **BYTES)
    last = hub / "2.parquet"
    content = last.read_bytes()
    last.write_bytes(content[:50])
    with pytest.raises(UserError, match="cannot read roneneldan/TinyStories .*run the same again"):
        prepare("tinystories", tmp_path / "data", **BYTES)
    progress = json.loads((tmp_path / "data/.tinystories.preparing/progress.json").read_text())
    assert progress["next"][0] == 1  # the second of the files
    last.write_bytes(content)
    folder = prepare("tinystories", tmp_path / "data", **BYTES)
    assert TokenData.open(folder).fingerprint == TokenData.open(whole).fingerprint


def test_the_hub_out_of_reach_is_said_at_once(hub, tmp_path, monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=r"does not answer .*prepare tinystories --file PATH") as e:
        prepare("tinystories", tmp_path / "data")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "data").exists()
    (tmp_path / "stories.txt").write_text(" | ".join(TEXTS), encoding="utf-8")
    options = {"tokenizer": "byte", "val_fraction": 0.2, "separator": " | "}
    own = prepare("tinystories", tmp_path / "data", tmp_path / "stories.txt", **options)
    found = texts_of(TokenData.open(own))
    assert sorted(found["train"] + found["val"]) == sorted(TEXTS)


def test_a_server_that_refuses_has_answered(monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.HTTPError(url, 403, "Forbidden", None, None)

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    network.check_reachable("https://huggingface.co", "it", "give up")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "ANSWER_TIMEOUT", 0.1)
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **kwargs: sys.stdin.buffer.raw.wait()
    )

    never = threading.Event()
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: never.wait())
    with pytest.raises(UserError, match="TinyStories .*: no answer in 0.1 seconds; try again"):
        prepare("tinystories", tmp_path / "data")
    never.set()


@pytest.mark.usefixtures("hub")
def test_without_the_datasets_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"datasets package: pip install 'nanogpkant\[data\]'"):
        prepare("tinystories", tmp_path / "data")


def test_training_does_not_stream(tmp_path):
    with pytest.raises(UserError, match="has to be downloaded: run nanogpkant prepare fineweb_edu"):
        ensure("fineweb_edu", tmp_path)
