"""runs, info and presets: what there is to work with."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UserError
from nanogpkant.report.table import Row, align, cell

if TYPE_CHECKING:
    from nanogpkant.config import ModelConfig
    from nanogpkant.run.folder import RunFolder

AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))  # seconds in a unit


@dataclass(frozen=True)
class Listing(Answer):
    """Rows of runs or presets, one line each."""

    rows: list[Row]
    text: str
    """the same in words"""

    def as_dict(self) -> list[Row]:
        return self.rows

    def words(self) -> str:
        return self.text


@dataclass(frozen=True)
class Description(Answer):
    """One run, as named facts."""

    facts: Row

    def as_dict(self) -> Row:
        return self.facts

    def words(self) -> str:
        return align([[name, in_words(value)] for name, value in self.facts.items()], left=(0, 1))


def in_words(value: Any) -> str:
    """A fact for a line of text."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return str(value)
    return f"{value:.4g}" if isinstance(value, float) else cell(value)


def runs(folder: str = "runs") -> Listing:
    """List the runs in a folder: name, model, step, best validation loss, age.

    Args:
        folder: folder to look in, with one run a sub-folder.

    Raises:
        UserError: no such folder.

    Examples:
        >>> import nanogpkant as ng
        >>> [row["name"] for row in ng.runs().as_dict()]
        ['quickstart_gpt', 'quickstart_kan']
    """
    from nanogpkant.run.folder import RunFolder

    if not Path(folder).is_dir():
        raise UserError(f"{folder} is not a folder; nanogpkant train writes runs/NAME")
    found = [RunFolder(path) for path in sorted(Path(folder).iterdir()) if path.name[0] != "."]
    rows = [_row(run) for run in found if run.config_file.is_file()]
    lines = [["run", "model", "step", "loss", "age"]]
    for row in rows:
        loss = row["best_val_loss"]
        words = [f"{row['step']:,}/{row['max_iters']:,}", "-" if loss is None else f"{loss:.4f}"]
        lines.append([row["name"], row["model"], *words, row["age"]])
    return Listing(rows, align(lines, left=(0, 1)) if rows else f"no runs in {folder}")


def _row(run: "RunFolder") -> Row:
    """One run for the list; a damaged one says so in place of its model."""
    from nanogpkant.config import load_config

    newest = max(path.stat().st_mtime for path in (run.path, run.metrics_file) if path.exists())
    row: Row = {"name": run.path.name, "model": "", "step": 0, "max_iters": 0}
    row |= {"best_val_loss": None, "age": age(time.time() - newest)}
    try:
        config = load_config(run.config_file)
        return row | {
            "model": kind_of(config.model),
            "max_iters": config.train.max_iters,
            **progress(run),
        }
    except UserError as error:
        return row | {"model": "damaged", "problem": str(error)}


def progress(run: "RunFolder") -> Row:
    """How far a run came: step, best_val_loss, best_step and last_val_loss, None where unknown."""
    from nanogpkant.run.metrics import evaluations, read_metrics

    rows = read_metrics(run.metrics_file) if run.metrics_file.is_file() else []
    losses = {row["step"]: row["loss"] for row in evaluations(rows)}
    best = min(filter(None, losses), key=losses.__getitem__, default=None)  # the start is none
    return {
        "step": max((row["step"] for row in rows), default=0),
        "best_val_loss": losses.get(best),
        "best_step": best,
        "last_val_loss": losses.get(max(losses, default=None)),
    }


def age(seconds: float) -> str:
    """A time span in its largest unit: 3 h."""
    size, unit = next((pair for pair in AGES if seconds >= pair[0]), AGES[-1])
    return f"{max(0, seconds) // size:.0f} {unit}"


def kind_of(model: "ModelConfig") -> str:
    """Kind and shape of a model: KAN (bspline, 2 of 4) 4 x 64."""
    sites = f"KAN ({model.kan.basis}, {len(model.kan.sites)} of 4)" if model.kan.sites else "GPT"
    return f"{sites} {model.n_layer} x {model.n_embd}"


def info(run: str) -> Description:
    """Describe one run: its model, data, training, checkpoints and machine.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.

    Raises:
        UserError: no such run, or one that is damaged.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.info("pretrained:shakespeare-mini-kan").facts["vocabulary"]
        65
    """
    from nanogpkant.config import RunConfig, settings_that_differ
    from nanogpkant.model.counting import count
    from nanogpkant.run.folder import open_run
    from nanogpkant.run.metrics import read_metrics

    opened = open_run(run)
    rows = read_metrics(opened.metrics_file) if opened.metrics_file.is_file() else []
    config, environment = opened.config(), opened.environment()
    vocab_size = opened.tokenizer().vocab_size
    counted, came = count(config.model, vocab_size), progress(opened)
    start = environment.get("parameters", counted.parameters)  # left by pruning
    parameters = [start, *(r["parameters"] for r in rows if r["split"] == "grid_change")][-1]
    facts: Row = {
        "folder": str(opened.path),
        "about": config.about,
        "model": kind_of(config.model),
        "parameters": parameters,
        "FLOPs per token": counted.flops_with(parameters),
        "vocabulary": vocab_size,
        "data": f"{config.data.dataset}, fingerprint {environment['data_fingerprint'][:12]}",
        "steps": f"{came['step']:,} of {config.train.max_iters:,}",
        "best validation loss": came["best_val_loss"],
        "at step": came["best_step"],
        "last validation loss": came["last_val_loss"],
        "checkpoints": sorted(path.name for path in opened.checkpoints.glob("step-*")),
        "device": f"{environment.get('device_name')} ({environment.get('device')})",
        "versions": environment.get("versions", {}),
        "revision": environment.get("git_revision"),
        "command": environment.get("command"),
        "settings": settings_that_differ(config, RunConfig()),
    }
    return Description(facts)


def presets() -> Listing:
    """List the presets with their size.

    Examples:
        >>> import nanogpkant as ng
        >>> "quickstart_kan" in {row["name"] for row in ng.presets().as_dict()}
        True
    """
    from nanogpkant.config import load_preset, preset_names
    from nanogpkant.model.counting import VOCABULARIES, count

    rows = []
    for name in preset_names():
        _, config = load_preset(name)
        vocab_size = VOCABULARIES[config.data.dataset]
        counted = count(config.model, vocab_size)
        rows.append(
            {
                "name": name,
                "about": config.about,
                "vocab_size": vocab_size,
                "parameters": counted.parameters,
                "parameters_without_positions": counted.parameters_without_positions,
                "flops_per_token": counted.flops_per_token,
            }
        )
    lines = [f"{r['name']:<42} {r['parameters'] / 1e6:6.2f}M  {r['about']}" for r in rows]
    return Listing(rows, "\n".join(lines))
