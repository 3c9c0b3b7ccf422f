"""The model card of an exported run: its use, its figures and how it was made."""

import shlex
import textwrap
from typing import Any

import yaml
from torch import Tensor

from nanogpkant.base.escape import fenced, markdown
from nanogpkant.base.files import read_text
from nanogpkant.config import ModelConfig, with_changes
from nanogpkant.model.counting import count
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.load import TrainedModel
from nanogpkant.run.metrics import read_metrics

SAMPLE_LINES = 20
SAMPLE_TITLE = "## What it writes"

# A key of an evaluation, the Hub's name for it, its name for a person, and its form.
FIGURES = (
    ("loss", "loss", "validation loss", "{:.4f} nats per token"),
    ("perplexity", "perplexity", "perplexity", "{:.3f}"),
    ("bits_per_char", "bits_per_character", "bits per character", "{:.4f}"),
    ("accuracy", "accuracy", "accuracy of the most likely token", "{:.1%}"),
    ("tokens", None, "predictions evaluated", "{:,}"),
    ("seconds", None, "seconds of training steps", "{:,.0f}"),
)

# How a folder of each format is used, and the library that the Hub is told of.
USE = {
    "run": """\
```bash
nanogpkant sample {path} --tokens 300
nanogpkant eval {path}
```""",
    "hf": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{path}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{path}", trust_remote_code=True)
tokens = tokenizer({start!r}, return_tensors="pt")
written = model.generate(**tokens, do_sample=True, temperature=0.8, max_length={block_size})
print(tokenizer.decode(written[0]))
```

`trust_remote_code=True` runs the model's code, `modeling_nanogpkant.py`: look at it first. It needs
torch and transformers only and is plain torch; nanogpkant itself has faster KAN layers. The context
is {block_size} tokens.""",
    "onnx": """\
```python
import numpy
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("{path}/tokenizer.json")
session = onnxruntime.InferenceSession("{path}/model.onnx")
ids = numpy.array([tokenizer.encode({start!r}).ids])  # (batch, tokens), at most {block_size} tokens
(logits,) = session.run(None, {{"input_ids": ids}})  # (batch, tokens, vocabulary)
print(tokenizer.decode([logits[0, -1].argmax()]))
```""",
}
REPEAT = " config.yaml has every setting: `nanogpkant train config.yaml` repeats the run."
LIBRARY = {"run": "nanogpkant", "hf": "transformers", "onnx": "onnx"}


def model_card(
    run: RunFolder,
    trained: TrainedModel,
    weights: dict[str, Tensor],
    *,
    name: str,
    license: str | None,
    format: str,
) -> str:
    """README.md of an exported run.

    Args:
        weights: as exported.
        name: the model's.
        license: by the Hub's identifier, such as mit.
        format: of the exported folder.
    """
    config, tokenizer = trained.config, trained.tokenizer
    rows = read_metrics(run.metrics_file) if run.metrics_file.exists() else []
    evaluation = next((r for r in rows if (r["step"], r["split"]) == (trained.step, "val")), {})
    if tokenizer.type != "char":  # a token is not a character
        evaluation.pop("bits_per_char", None)
    front = front_matter(trained, evaluation, name, license, format)
    block_size, path = config.model.block_size, f"PATH/TO/{name}"
    path = shlex.quote(path) if format == "run" else path
    is_repeatable = format == "run" and not {"converted", "pruned"} & run.environment().keys()
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {name}",
        markdown(config.about),
        description(config.model),
        USE[format].format(path=path, start=tokenizer.start, block_size=block_size),
        f"## Figures\n\n{figures(run, trained, evaluation, weights)}",
        f"## How it was made\n\n{making(run, trained)}{REPEAT if is_repeatable else ''}",
    ]
    if run.samples_file.exists():
        text = read_text(run.samples_file).replace("\0", "\n")  # between documents
        lines = text.strip("\n").splitlines()[:SAMPLE_LINES]
        parts.append(f"{SAMPLE_TITLE}\n\n{textwrap.indent(chr(10).join(lines), '    ')}")
    return "\n\n".join(filter(None, parts)) + "\n"


def front_matter(
    trained: TrainedModel, evaluation: dict[str, Any], name: str, license: str | None, format: str
) -> dict[str, Any]:
    """The part that the Hub reads: https://huggingface.co/docs/hub/model-cards."""
    config = trained.config
    tags = ["nanogpkant", *(["kolmogorov-arnold-network"] if config.model.kan.sites else [])]
    front = {"library_name": LIBRARY[format], "pipeline_tag": "text-generation", "tags": tags}
    if license:
        front["license"] = license
    metrics = [
        {"type": kind, "name": words, "value": evaluation[key]}
        for key, kind, words, _ in FIGURES
        if kind and key in evaluation
    ]
    if metrics:
        dataset = {"type": config.data.dataset, "name": config.data.dataset, "split": "validation"}
        result = {"task": {"type": "text-generation"}, "dataset": dataset, "metrics": metrics}
        front["model-index"] = [{"name": name, "results": [result]}]
    return front


def description(model: ModelConfig) -> str:
    """The architecture in a sentence or two."""
    shape = f"{model.n_layer} layers, {model.n_head} heads and width {model.n_embd}"
    kan, layers = model.kan, "Its projections are plain."
    if kan.sites:
        settings = f"basis {kan.basis}, grid_size {kan.grid_size}, share {kan.share}"
        layers = f"{', '.join(kan.sites)} are KAN layers: {settings}, base {kan.base}."
    if model.curve_lengths:
        curve = model.curve
        layers += f" Its curves of distance: basis {curve.basis}, {curve.knots} knots, "
        layers += f"scale {curve.scale}."
    return f"A GPT of {shape}, with a context of {model.block_size} tokens. {layers}"


def figures(
    run: RunFolder, trained: TrainedModel, evaluation: dict[str, Any], weights: dict[str, Tensor]
) -> str:
    """The table of the model's quality and cost."""
    learned = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    fixed = sum(p.numel() for p in trained.model.parameters() if not p.requires_grad)
    parameters = sum(tensor.numel() for tensor in learned) - fixed
    has_scale = any(name.endswith(".spline_scale") for name in weights)  # else multiplied in
    shape = with_changes(trained.config.model, **{"kan.spline_scale": has_scale})
    counted = count(shape, trained.tokenizer.vocab_size)
    flops = counted.flops_with(parameters)  # grids may have changed
    dtype = str(learned[0].dtype).removeprefix("torch.")
    rounded = "" if dtype == "float32" else ", rounded after the evaluation"
    measured = {name: form.format(evaluation[k]) for k, _, name, form in FIGURES if k in evaluation}
    rows = {
        **(measured or {"validation loss": "not evaluated at this step"}),
        "parameters": f"{parameters:,}",
        "FLOPs per token of training": f"{flops:,}",
        "optimizer steps": f"{trained.step:,}",
        "weights stored in": dtype + rounded,
        "data": trained.config.data.dataset,
        "data fingerprint": f"`{run.data_fingerprint()}`",
    }
    lines = (f"| {words} | {markdown(value)} |" for words, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *lines])


def making(run: RunFolder, trained: TrainedModel) -> str:
    """The command, device and versions."""
    environment = run.environment()
    device = environment.get("device_name") or "a device that was not recorded"
    versions = [f"{name} {v}" for name, v in environment.get("versions", {}).items() if v]
    revision = environment.get("git_revision") or "not recorded"
    known = ", ".join([device, trained.config.train.dtype, *versions, f"revision {revision}"])
    command = fenced(environment.get("command") or "not recorded", "bash")
    return f"{command}\n\nOn {markdown(known)}."
