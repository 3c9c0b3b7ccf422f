"""Loads exported folders as somebody does who has torch and transformers, but not this project.

Run by test_huggingface.py in a process of its own: clean_transformers.py FOLDER SCRATCH PAGE OLD.
Every folder in FOLDER is a model with an expected.safetensors: what this project says. PAGE has
code to run, OLD an export of an earlier version. Prints one JSON object, {model: {what: figure}}.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

GONE = ("nanogpkant", "jsonargparse")


class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ModuleNotFoundError(f"No module named {name!r}")


sys.meta_path.insert(0, Missing())

import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, logging  # noqa: E402

logging.disable_progress_bar()


def load(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, **options)


def largest(a, b):
    return (a - b).abs().max().item()


def padded(texts, left):
    """Texts of different lengths as one batch, padded with an id of none of the tokens."""
    longest = max(map(len, texts))
    rows, masks = [], []
    for text in texts:
        fill = [10_000] * (longest - len(text))
        ones, zeros = [1] * len(text), [0] * len(fill)
        rows.append(fill + text if left else text + fill)
        masks.append(zeros + ones if left else ones + zeros)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@torch.no_grad()
def figures(folder):
    expected = load_file(folder / "expected.safetensors")
    model = load(folder)
    ids, logits, greedy = (expected[name] for name in ("ids", "logits", "greedy"))
    found = {"logits": largest(model(ids).logits, logits), "scale": logits.std().item()}
    found["loss"] = largest(model(ids, labels=ids).loss, expected["loss"])
    prompt, new = ids[:, :3], greedy.shape[1] - 3
    settings = {"max_new_tokens": new, "do_sample": False}
    for cache in (True, False):
        written = model.generate(prompt, use_cache=cache, **settings)
        found[f"greedy, cache {cache}"] = (written != greedy).sum().item()
    texts = [ids[0, :2].tolist(), ids[1, :5].tolist(), ids[2, 1:2].tolist()]
    alone = [model(torch.tensor([text])).logits[0] for text in texts]
    for left in (True, False):
        batch = padded(texts, left)
        out, mask = model(**batch).logits, batch["attention_mask"].bool()
        rows = zip(out, mask, alone, strict=True)
        found[f"padded, left {left}"] = max(largest(o[m], a) for o, m, a in rows)
    settings["max_new_tokens"] = 3
    together = model.generate(**padded(texts, True), **settings)[:, -3:]
    each = [model.generate(torch.tensor([t]), **settings)[0, -3:] for t in texts]
    found["greedy, padded"] = (together != torch.stack(each)).sum().item()
    return found


def pruned_gradient(folder):
    """The largest gradient of an edge that is gone; how many there are; the largest of the rest."""
    model, ids = load(folder).train(), load_file(folder / "expected.safetensors")["ids"]
    model(ids, labels=ids).loss.backward()
    weights = [p for name, p in model.named_parameters() if name.endswith(".layer.weight")]
    gone = [(w == 0).all(1) for w in weights]
    sizes = [w.grad.abs().amax(1) for w in weights]
    pairs = list(zip(sizes, gone, strict=True))
    return [
        max(size[mask].max().item() for size, mask in pairs),
        sum(mask.sum().item() for mask in gone),
        max(size[~mask].max().item() for size, mask in pairs),
    ]


def more(folder, scratch):
    """What is the same for every model, of one."""
    expected = load_file(folder / "expected.safetensors")
    ids, logits = expected["ids"], expected["logits"]
    model = load(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    for part in (model, tokenizer):
        part.save_pretrained(scratch / "again")
    again = load(scratch / "again")
    AutoTokenizer.from_pretrained(scratch / "again", trust_remote_code=True)
    found = {"saved and loaded": largest(again(ids).logits, logits)}
    found["files"] = sorted(path.name for path in (scratch / "again").iterdir())
    half = load(folder, dtype=torch.bfloat16)
    found["bfloat16"] = largest(half(ids).logits.float(), logits)
    found["bfloat16 weights"] = sorted({str(p.dtype) for p in half.parameters()})
    found["ties"] = model.config.tie_word_embeddings
    found["default length"] = model.generate(ids[:, :3], do_sample=False).shape[1]
    found["beams"] = model.generate(ids[:, :3], num_beams=3, max_new_tokens=2).shape[1]
    try:
        model.generate(ids[:, :3], max_new_tokens=20)
    except ValueError as error:
        found["too long"] = str(error)
    fresh = AutoModelForCausalLM.from_config(model.config, trust_remote_code=True)
    found["fresh"] = [bool(p.isfinite().all()) for p in fresh.parameters()]
    found["fresh differs"] = largest(fresh(ids).logits, logits)
    model.train()
    model(ids, labels=ids).loss.backward()
    found["without gradient"] = [n for n, p in model.named_parameters() if p.grad is None]
    model.resize_token_embeddings(20)
    found["resized"] = model.eval()(ids).logits.shape[-1]
    text = "Speak, friend"
    for what, file in (("card", folder / "README.md"), ("page", Path(sys.argv[3]))):
        code = file.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code.replace("PATH/TO/", f"{folder.parent}/"), {})
        found[f"{what} prints"] = printed.getvalue()
    found["text"] = tokenizer.decode(tokenizer(text)["input_ids"])
    return found


@torch.no_grad()
def old_export(folder):
    """The largest error of an earlier version's export."""
    expected = json.loads((folder / "hf_logits.json").read_text(encoding="utf-8"))
    logits = load(folder / "hf_export")(torch.tensor(expected["ids"])).logits
    return largest(logits, torch.tensor(expected["logits"]))


def main():
    folders = sorted(path for path in Path(sys.argv[1]).iterdir() if path.is_dir())
    result = {folder.name: figures(folder) for folder in folders}
    result["pruned gradient"] = pruned_gradient(Path(sys.argv[1]) / "pruned")
    result["more"] = more(Path(sys.argv[1]) / "exported", Path(sys.argv[2]))
    result["old export"] = old_export(Path(sys.argv[4]))
    try:
        import nanogpkant  # noqa: F401
    except ModuleNotFoundError as error:
        result["clean"] = str(error)
    print(json.dumps(result))


main()
