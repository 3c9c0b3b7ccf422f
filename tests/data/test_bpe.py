"""Byte-pair encoding against tiktoken and tokenizers themselves."""

import json
import math
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanogpkant.base.errors import UserError
from nanogpkant.cli import main
from nanogpkant.config import load_config, save_config, with_changes
from nanogpkant.data import (
    BPETokenizer,
    CharTokenizer,
    TokenData,
    Tokens,
    load_tokenizer,
    prepare,
    read,
)
from nanogpkant.data.tokenizer import bpe, train_bpe
from nanogpkant.evaluation import Evaluation, count_bytes

tiktoken = pytest.importorskip("tiktoken")
pytest.importorskip("tokenizers")

TEXT = "The quick brown fox doesn't jump over 12 lazy dogs;\n\nÄpfel und 🍒 are it's  fruit!\n" * 40


@pytest.fixture(scope="module")
def trained() -> BPETokenizer:
    return train_bpe([TEXT[:1000], TEXT[1000:]], 300)


def test_a_trained_vocabulary(trained):
    assert trained.vocab_size == 300
    assert trained.eot == 299
    ids = trained.encode(TEXT)
    assert ids.dtype == np.dtype("<u2")
    assert len(ids) < 0.7 * len(TEXT.encode())
    assert trained.decode(ids) == TEXT
    assert trained.byte_lengths[ids].sum() == len(TEXT.encode())
    assert trained.byte_lengths[trained.eot] == 0
    assert trained.decode([trained.eot]) == "<|endoftext|>"


def test_tokens_are_those_of_tokenizers_own_training():
    """Trained again with the package alone, and encoded by it."""
    from tokenizers import ByteLevelBPETokenizer

    theirs = ByteLevelBPETokenizer()
    theirs.train_from_iterator([TEXT], vocab_size=299, show_progress=False)
    ours = train_bpe([TEXT], 300)
    # they number single bytes in another order, so the texts of the tokens are compared
    cut = [ours.tokens[id_] for id_ in ours.encode(TEXT)]
    decoder = {character: byte for byte, character in enumerate(bpe.shown_bytes())}
    assert cut == [bytes(map(decoder.get, token)) for token in theirs.encode(TEXT).tokens]


def test_training_is_repeatable(trained):
    assert all(train_bpe([TEXT[:1000], TEXT[1000:]], 300) == trained for _ in range(5))


def test_a_vocabulary_no_larger_than_the_text_allows():
    small = train_bpe(["ab ab"], 1000)
    assert 257 < small.vocab_size < 262
    assert small.decode(small.encode("any text at all")) == "any text at all"


def test_special_text_in_a_text_is_text(trained):
    text = "before<|endoftext|>after"
    assert trained.eot not in trained.encode(text)
    assert trained.decode(trained.encode(text)) == text


def test_saved_loaded_and_sent(trained, tmp_path):
    trained.save(tmp_path / "tokenizer.json")
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["type"] == "bpe"
    loaded = load_tokenizer(tmp_path / "tokenizer.json")
    assert loaded == trained == pickle.loads(pickle.dumps(trained))
    assert len({loaded, trained}) == 1
    assert np.array_equal(loaded.encode(TEXT), trained.encode(TEXT))
    assert loaded != train_bpe([TEXT], 299)
    assert loaded != CharTokenizer("ab")


@given(text=st.text(st.sampled_from("ab '\n\t\u00a0\u3000stÄ12!🍒"), max_size=300))
def test_pieces_have_the_tokens_of_the_whole(trained, text):
    """Cut wherever ``pieces`` may cut, the ids are those of the text in one."""
    cuts = [m.start() for m in read.GAP.finditer(text)]
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ids = np.concatenate([trained.encode(part) for part in parts])
    assert np.array_equal(ids, trained.encode(text))


def test_half_a_character(trained):
    ids = trained.encode("🍒")
    if len(ids) > 1:
        assert trained.decode(ids[:-1]) == "\ufffd"
    assert trained.decode_bytes(ids) == "🍒".encode()


@pytest.mark.parametrize("id_", [-1, 300])
def test_ids_outside(trained, id_):
    with pytest.raises(UserError, match=f"token id {id_} is not in the vocabulary"):
        trained.decode([id_])


def test_text_without_a_utf8_form(trained):
    with pytest.raises(UserError, match="the text has no UTF-8 form"):
        trained.encode("\udcff")


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": None},
        {"tokens": ["a", "b"]},
        {"tokens": [1]},
        {"tokens": ["\u1000"]},
        {"pattern": None},
        {"pattern": "("},
    ],
)
def test_malformed_files(trained, tmp_path, change):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"type": "bpe", **trained.as_json(), **change}), encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer.json is not a byte-level vocabulary"):
        load_tokenizer(path)


def test_a_token_twice(trained, tmp_path):
    path = tmp_path / "tokenizer.json"
    value = trained.as_json()
    value["tokens"][-1] = value["tokens"][0]
    path.write_text(json.dumps({"type": "bpe", **value}), encoding="utf-8")
    with pytest.raises(UserError, match="its tokens must differ"):
        load_tokenizer(path)


# --- prepared with it


@pytest.fixture
def stories(tmp_path):
    lines = [json.dumps({"text": f"Story {n}. {TEXT[n : n + 90]}"}) for n in range(200)]
    (tmp_path / "stories.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return tmp_path / "stories.jsonl"


def test_documents_end_with_an_end_of_text(stories, tmp_path):
    options = {"tokenizer": "bpe", "vocab_size": 400}
    data = TokenData.open(prepare("stories", tmp_path, stories, **options))
    assert data.vocab_size == 400
    texts = {json.loads(line)["text"] for line in stories.read_text(encoding="utf-8").splitlines()}
    found = []
    for split in (data.train, data.val):
        assert split[-1] == data.tokenizer.eot
        ends = np.flatnonzero(np.asarray(split) == data.tokenizer.eot)
        for start, end in zip([0, *(ends[:-1] + 1)], ends, strict=True):
            found.append(data.tokenizer.decode(split[start:end]))
            # as tiktoken has it, one document alone
            assert np.array_equal(data.tokenizer.encode(found[-1]), split[start:end])
    assert len(found) == 200
    assert set(found) == texts


def test_the_vocabulary_of_another_dataset(stories, corpus, tmp_path):
    first = prepare("a", tmp_path, stories, tokenizer="bpe", vocab_size=300)
    for name, place in (("run", first), ("file", first / "tokenizer.json")):
        second = prepare(name, tmp_path, corpus, tokenizer=str(place))
        data = TokenData.open(second)
        assert data.tokenizer == TokenData.open(first).tokenizer
        text = data.tokenizer.decode(data.train) + data.tokenizer.decode(data.val)
        assert text == corpus.read_text(encoding="utf-8")


def test_a_vocabulary_without_an_end(stories, corpus, tmp_path):
    chars = prepare("chars", tmp_path, corpus)
    with pytest.raises(UserError, match="has no token to end a document with"):
        prepare("stories", tmp_path, stories, tokenizer=str(chars))
    with pytest.raises(UserError, match="neither one of char, byte, gpt2, bpe nor a file"):
        prepare("stories", tmp_path, stories, tokenizer="gpt3")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"tokenizer": "bpe", "vocab_size": 256}, "--vocab_size 256: must be at least 257"),
        (
            {"tokenizer": "char", "vocab_size": 300},
            "--vocab_size 300: goes with --tokenizer bpe alone",
        ),
        ({"val_fraction": 1.0}, "--val_fraction 1.0: must be between 0 and 1"),
        ({"val_fraction": float("nan")}, "--val_fraction nan: must be between 0 and 1"),
        ({"separator": ""}, "--separator '': must not be empty"),
        ({"workers": 0}, "--workers 0: must be at least 1"),
    ],
)
def test_options_that_cannot_be(corpus, tmp_path, options, error):
    with pytest.raises(UserError, match=error):
        prepare("own", tmp_path, corpus, **options)


# --- GPT-2's


def test_gpt2_comes_from_tiktoken(trained, monkeypatch):
    """Whatever tiktoken calls gpt2; the real one needs a network."""
    ranks = {token: id_ for id_, token in enumerate(trained.tokens)}
    theirs = tiktoken.Encoding(
        "gpt2", pat_str=r" ?\S+|\s+", mergeable_ranks=ranks, special_tokens={bpe.END: len(ranks)}
    )
    monkeypatch.setattr(tiktoken, "get_encoding", {"gpt2": theirs}.get)
    assert bpe.gpt2() == trained


def test_gpt2_is_not_waited_for(monkeypatch):
    def fail(name):
        raise ConnectionError("Name or service\nnot known")

    monkeypatch.setattr(tiktoken, "get_encoding", fail)
    with pytest.raises(UserError, match="cannot get GPT-2's vocabulary: Name or service not known"):
        bpe.gpt2()


def test_the_pattern_is_gpt2s():
    """On text of every kind, as tokenizers cuts it before any merge."""
    from tokenizers.pre_tokenizers import ByteLevel

    regex = pytest.importorskip("regex")
    for text in (TEXT, "a  b\n\n c \u00a0d\u3000 e'll 'S 1a2_b\t\t\n", "x" + " " * 7):
        theirs = [text[a:b] for _, (a, b) in ByteLevel(False).pre_tokenize_str(text)]
        assert regex.findall(bpe.PATTERN, text) == theirs


def test_single_bytes_alone_are_a_vocabulary():
    single = [bytes([byte]) for byte in range(256)]
    assert BPETokenizer(single).encode("é").tolist() == [0xC3, 0xA9]


# --- what depends on the vocabulary


def test_bits_per_byte(trained):
    """The bytes are those of the text; an end of text adds none."""
    ids = np.append(trained.encode(TEXT), trained.eot).astype(trained.dtype)
    assert count_bytes(trained, Tokens(np.array_split(ids, 3), ids.dtype)) == len(TEXT.encode())
    chars = CharTokenizer(TEXT)
    ids = chars.encode(TEXT)
    assert count_bytes(chars, Tokens([ids], ids.dtype)) == len(TEXT.encode())
    result = Evaluation(2 * math.log(2), 0.5, 30, (1.0, 1.0), bytes=120)
    assert result.as_dict()["bits_per_byte"] == pytest.approx(0.5)
    assert "bits_per_byte" not in replace(result, bytes=None).as_dict()


@pytest.mark.parametrize("choice", ["byte", "bpe"])
def test_weights_of_another_vocabulary_are_refused(
    choice, corpus, tiny_experiment, tiny_run, tmp_path, capsys
):
    size = 300 if choice == "bpe" else None
    prepare("own", tmp_path, corpus, tokenizer=choice, vocab_size=size)
    data = ["--data.dataset", "own", "--data.dir", str(tmp_path)]
    command = ["train", str(tiny_experiment), "--out", str(tmp_path / "run"), *data]
    assert main([*command, "--train.init_from", str(tiny_run)]) == 1
    assert "its vocabulary is not that of --data.dataset" in capsys.readouterr().err


def test_a_run_does_not_go_on_with_another_vocabulary(corpus, tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    prepare("corpus", tmp_path / "data", corpus, tokenizer="byte")
    config = load_config(run / "config.yaml")
    save_config(with_changes(config, **{"data.dir": str(tmp_path / "data")}), run / "config.yaml")
    for command in (["train", "quickstart_kan", "--resume", "--out"], ["eval"]):
        assert main([*command, str(run)]) == 1
        assert "was trained on other data than" in capsys.readouterr().err
