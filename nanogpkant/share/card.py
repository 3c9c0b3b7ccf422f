"""The model card of an exported run: what it is, its figures, its making."""

import textwrap
from typing import Any

import yaml
from torch import Tensor

from nanogpkant.base.files import read_text
from nanogpkant.config import ModelConfig, RunConfig, load_config
from nanogpkant.data import load_tokenizer
from nanogpkant.model.counting import count
from nanogpkant.run.folder import RunFolder
from nanogpkant.run.metrics import read_metrics

SAMPLE_LINES = 20

# A key of an evaluation, the Hub's name for it, and how people read it.
FIGURES = (
    ("loss", "loss", "validation loss", "{:.4f} nats per token"),
    ("perplexity", "perplexity", "perplexity", "{:.3f}"),
    ("bits_per_char", "bits_per_character", "bits per character", "{:.4f}"),
    ("accuracy", "accuracy", "accuracy of the most likely token", "{:.1%}"),
    ("tokens", None, "predictions that these are over", "{:,}"),
    ("seconds", None, "seconds in training steps", "{:,.0f}"),
)

# How a folder of each format is used, and the library that the Hub is told of.
USE = {
    "run": """\
```bash
nanogpkant sample PATH/TO/{name} --tokens 300
nanogpkant eval PATH/TO/{name}
```""",
    "hf": """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("PATH/TO/{name}", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH/TO/{name}", trust_remote_code=True)
tokens = tokenizer({start!r}, return_tensors="pt")
written = model.generate(**tokens, do_sample=True, temperature=0.8, max_length={block_size})
print(tokenizer.decode(written[0]))
```

The model's code is `modeling_nanogpkant.py`, which `trust_remote_code=True` runs: look at it first.
It needs torch and transformers alone, and is plain torch: nanogpkant itself has faster KAN layers.
Its context ends at {block_size} tokens.""",
    "onnx": """\
```python
import numpy
import onnxruntime
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("PATH/TO/{name}/tokenizer.json")
session = onnxruntime.InferenceSession("PATH/TO/{name}/model.onnx")
ids = numpy.array([tokenizer.encode({start!r}).ids])  # (batch, tokens), up to {block_size} of them
(logits,) = session.run(None, {{"input_ids": ids}})  # (batch, tokens, vocabulary)
print(tokenizer.decode([logits[0, -1].argmax()]))
```""",
}
REPEATED = " config.yaml has every setting: `nanogpkant train config.yaml` repeats the run."
LIBRARY = {"run": "nanogpkant", "hf": "transformers", "onnx": "onnx"}


def model_card(
    run: RunFolder,
    name: str,
    step: int,
    weights: dict[str, Tensor],
    licence: str | None,
    form: str = "run",
) -> str:
    """README.md of an exported run.

    Args:
        run: the run that is exported.
        name: what the model is called.
        step: optimiser steps that its weights have had.
        weights: as exported.
        licence: of the model, by the Hub's identifier, such as mit.
        form: the format of the exported folder.

    Raises:
        UserError: a file of the run is damaged.
    """
    config = load_config(run.config_file)
    rows = read_metrics(run.metrics_file) if run.metrics_file.exists() else []
    evaluation = next((r for r in rows if (r["step"], r["split"]) == (step, "val")), {})
    tokenizer = load_tokenizer(run.tokenizer_file)
    if tokenizer.type == "bpe":  # whose tokens are no characters
        evaluation.pop("bits_per_char", None)
    front = front_matter(name, config, evaluation, licence, LIBRARY[form])
    head = yaml.safe_dump(front, sort_keys=False)
    words = {"name": name, "start": tokenizer.start, "block_size": config.model.block_size}
    use = USE[form].format(**words)
    parts = [
        f"---\n{head}---\n\n# {name}",
        " ".join(config.about.split()),
        description(config.model),
        use,
        f"## Figures\n\n{figures(run, config, evaluation, step, weights)}",
        f"## How it was made\n\n{making(run, config, form)}",
        f"## What it writes\n\n{sample(run)}" if run.samples_file.exists() else "",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(
    name: str, config: RunConfig, evaluation: dict[str, Any], licence: str | None, library: str
) -> dict[str, Any]:
    """What the Hub reads of a card: https://huggingface.co/docs/hub/model-cards."""
    tags = ["nanogpkant", *(["kolmogorov-arnold-network"] if config.model.kan.sites else [])]
    front = {"library_name": library, "pipeline_tag": "text-generation", "tags": tags}
    if licence:
        front["license"] = licence
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
    shape = f"{model.n_layer} layers, {model.n_head} heads and width {model.n_embd}"
    kan = model.kan
    layers = (
        f"{', '.join(kan.sites)} are KAN layers: basis {kan.basis}, grid_size {kan.grid_size}, "
        f"share {kan.share}, base {kan.base}."
        if kan.sites
        else "It has no KAN layers."
    )
    return f"A GPT of {shape}, with a context of {model.block_size} tokens. {layers}"


def figures(
    run: RunFolder,
    config: RunConfig,
    evaluation: dict[str, Any],
    step: int,
    weights: dict[str, Tensor],
) -> str:
    """The table of what the model is worth and what it costs."""
    learned = [tensor for tensor in weights.values() if tensor.is_floating_point()]
    parameters = sum(tensor.numel() for tensor in learned)
    counted = count(config.model, load_tokenizer(run.tokenizer_file).vocab_size)
    # Grids may have changed: a coefficient more is 6 FLOPs more, a multiply and an add three times.
    flops = counted.flops_per_token + 6 * (parameters - counted.parameters)
    measured = [
        (words, form.format(evaluation[key]))
        for key, _, words, form in FIGURES
        if key in evaluation
    ]
    dtype = str(learned[0].dtype).removeprefix("torch.")
    rounded = "" if dtype == "float32" else ", rounded after the evaluation"
    rows = [
        *(measured or [("validation loss", "not evaluated at this step")]),
        ("parameters", f"{parameters:,}"),
        ("FLOPs per token of training", f"{flops:,}"),
        ("optimiser steps", f"{step:,}"),
        ("weights stored in", dtype + rounded),
        ("data", config.data.dataset),
        ("data fingerprint", f"`{run.data_fingerprint()}`"),
    ]
    return "\n".join(["| | |", "|---|---|", *(f"| {words} | {value} |" for words, value in rows)])


def making(run: RunFolder, config: RunConfig, form: str) -> str:
    """The command, and what it ran on."""
    environment = run.environment()
    versions = environment.get("versions", {})
    named = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    return (
        f"```bash\n{environment.get('command', 'not recorded')}\n```\n\n"
        f"On {environment.get('device_name') or 'a device that was not recorded'} in "
        f"{config.train.dtype}, with {named or 'versions that were not recorded'}, revision "
        f"{environment.get('git_revision') or 'not recorded'}.{REPEATED if form == 'run' else ''}"
    )


def sample(run: RunFolder) -> str:
    """The first lines of samples.txt, indented as code."""
    lines = read_text(run.samples_file).strip("\n").splitlines()[:SAMPLE_LINES]
    return textwrap.indent("\n".join(lines), "    ")
