"""A pruned model as a new run: saved, fine-tuned on request, and measured."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nanogpkant.base.console import bar
from nanogpkant.config import with_changes
from nanogpkant.data import Batches, TokenData
from nanogpkant.evaluation import Evaluation, evaluate
from nanogpkant.interpretation.judge.evaluator import swapped
from nanogpkant.kan import kan_layers
from nanogpkant.machine.device import describe
from nanogpkant.measure.timing import interleaved
from nanogpkant.model.gpt import GPT
from nanogpkant.run.checkpoint import features_of, load_checkpoint, save_checkpoint, tensors_of
from nanogpkant.run.folder import RunFolder, create_run
from nanogpkant.run.load import TrainedModel, load_model
from nanogpkant.run.metrics import read_metrics, write_metrics
from nanogpkant.training.loop import train
from nanogpkant.training.optim import make_optimizer
from nanogpkant.training.state import State

BATCH_SIZE = 64  # sequences evaluated at a time
TIMED_SEQUENCES, TIMINGS = 16, 7  # of each model, in turn; the median counts


def write_pruned_run(
    source: RunFolder,
    trained: TrainedModel,
    data: TokenData,
    modules: dict[str, nn.Module],
    out: Path,
    finetune: int,
    about: dict[str, Any],
) -> dict[str, Any]:
    """Write a model with other modules as a run that resumes at the same step, and measure both.

    Args:
        source, trained: the run that was pruned; its model is put back as it was.
        data: what it was trained on.
        modules: the pruned layers: all KAN layers of the model, by name.
        out: the new run folder.
        finetune: optimizer steps of fine-tuning, 0 for none. Their learning rate is the end of the
            run's schedule, extended by that many steps.
        about: recorded in environment.json and repeated in the report.

    Returns:
        "run", "about", "shapes" (inputs and outputs left of each layer) and "models": "before",
        "pruned" and, with ``finetune``, "finetuned", each with ``edges``, ``parameters``,
        ``weight_bytes`` as saved and ``val_loss`` over the whole split; the first and the last
        with ``tokens_per_second`` of a forward pass.

    Raises:
        UserError: the folder cannot be written.
        UsageError: it is not empty.
    """
    model, step = trained.model, trained.step
    changes: dict[str, Any] = {"train.max_seconds": None, "train.init_from": "scratch"}
    changes |= {"train.from_formulas": None, "model.kan.spline_scale": False}  # multiplied in
    if finetune:
        changes["train.max_iters"] = step + finetune
        changes["train.device"] = str(model.tokens.weight.device)
    config = with_changes(trained.config, **changes)
    checkpoint = load_checkpoint(source, f"step-{step:06d}")
    seconds = 0.0 if source.is_exported else checkpoint.training()["seconds"]
    before = _size(model) | {"val_loss": _evaluate(model, data, "evaluating the run").loss}
    with swapped(model, modules):
        found = _evaluate(model, data, "evaluating the pruned run")
        environment = describe(model.tokens.weight.device)
        pruned = _size(model) | {"val_loss": found.loss}
        environment |= {"data_fingerprint": data.fingerprint, "pruned": about}
        environment |= {"parameters": pruned["parameters"]}  # the settings have all edges'
        run = create_run(out, config, environment, trained.tokenizer)
        training = asdict(State(step, seconds, found.loss, found.loss, found.tokens))
        training["optimizer"] = make_optimizer(model, config.optim).state_dict()
        save_checkpoint(run, step, model.state_dict(), training, True, 0, features_of(model))
        models = {"before": before, "pruned": pruned}
    row = {"step": step, "split": "val"} | found.as_dict() | found.parts() | {"seconds": seconds}
    rows = read_metrics(source.metrics_file) if source.metrics_file.is_file() else []
    rows = [row for row in rows if row["split"] == "grid_change" and row["step"] < step]
    changed = {"step": step, "split": "grid_change", "parameters": pruned["parameters"]}
    write_metrics(run.metrics_file, [*rows, changed, row])
    if finetune:
        loss = train(config, out, resume=True)["best_val_loss"]
        models["finetuned"] = models["pruned"] | {"val_loss": loss}
    after = load_model(out, device=model.tokens.weight.device).model
    speeds = _tokens_per_second({"before": model, list(models)[-1]: after}, data)
    for name, speed in speeds.items():
        models[name]["tokens_per_second"] = speed
    shapes = {name: [m.in_features, m.out_features] for name, m in kan_layers(after).items()}
    return {"run": str(out), "about": about, "models": models, "shapes": shapes}


def _evaluate(model: GPT, data: TokenData, doing: str) -> Evaluation:
    with bar(doing, "tokens") as progress:
        return evaluate(model, data.val, BATCH_SIZE, progress)


def _size(model: GPT) -> dict[str, Any]:
    weights = [layer.effective_weight().detach() for layer in kan_layers(model).values()]
    return {
        "edges": sum(int((weight != 0).any(dim=1).sum()) for weight in weights),
        "parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "weight_bytes": sum(
            t.numel() * t.element_size() for t in tensors_of(model.state_dict()).values()
        ),
    }


@torch.no_grad()
def _tokens_per_second(models: dict[str, GPT], data: TokenData) -> dict[str, float]:
    """Tokens per second of each model's forward pass."""
    model = next(iter(models.values()))
    device = model.tokens.weight.device
    x, _ = Batches(data.val, model.config.block_size, TIMED_SEQUENCES, seed=0).batch(0, device)
    tasks = {name: lambda each=each: each(x) for name, each in models.items()}
    timings = interleaved(tasks, TIMINGS, device)
    return {name: round(1000 * x.numel() / timings[name].median, 1) for name in models}
