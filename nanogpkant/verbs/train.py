"""train, and track: a run from a preset, and its metrics for a tracker."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import is_new

if TYPE_CHECKING:
    from nanogpkant.config import RunConfig
    from nanogpkant.evaluation import Evaluation


@dataclass(frozen=True)
class Trained(Answer):
    """A run as ``train`` left it."""

    on_stdout: ClassVar[bool] = False
    run: str
    """its folder"""
    step: int
    best_val_loss: float | None
    """nats per token; None before the first evaluation"""
    val_loss: float
    seconds: float
    """in training steps"""
    peak_memory_bytes: int
    finished: bool

    def words(self) -> str:
        loss = f"validation loss {self.val_loss:.4f} at the start, not evaluated since; stopped"
        if self.best_val_loss is not None:
            loss = f"best validation loss {self.best_val_loss:.4f}"
        return f"{loss} after {self.step} steps, {self.seconds:.0f} s; the run is in {self.run}"


@dataclass(frozen=True)
class Evaluated(Answer):
    """An evaluation of a split."""

    on_stdout: ClassVar[bool] = False
    split: str
    evaluation: "Evaluation" = field(repr=False)

    @property
    def loss(self) -> float:
        """nats per token"""
        return self.evaluation.loss

    def as_dict(self) -> dict[str, Any]:
        return {"split": self.split, **self.evaluation.as_dict()}

    def words(self) -> str:
        return self.evaluation.words()


@dataclass(frozen=True)
class Tracked(Answer):
    """Metrics that ``track`` sent."""

    on_stdout: ClassVar[bool] = False
    run: str
    tracker: str
    project: str
    folder: str
    rows: int

    def words(self) -> str:
        sent = f"{self.rows} rows of {self.run} are in {self.tracker}"
        # The others say themselves how to see them.
        is_tensorboard = self.tracker == "tensorboard"
        return f"{sent}: tensorboard --logdir {self.folder}" if is_tensorboard else sent


def train(
    preset: str,
    *,
    out: str | None = None,
    resume: bool = False,
    auto_resume: bool = False,
    overwrite: bool = False,
    wait: bool = False,
    live: bool = False,
    branch_of: str | None = None,
    **settings: Any,
) -> Answer:
    """Train a preset, or a configuration in a YAML file.

    Args:
        preset: name of a preset (nanogpkant presets lists them), or a path to a .yaml file.
        out: run folder; runs/PRESET unless given.
        resume: continue the run from its last checkpoint.
        auto_resume: continue the run if there is one, else start it; for torchrun and queues.
        overwrite: replace the run folder if there is one.
        wait: if another process writes the run folder, wait for it; without, an error.
        live: open Trackio's dashboard of the run in a browser, on this machine alone.
        branch_of: run to continue from its last checkpoint in a new folder, such as to decay the
            learning rate after a long run at a constant one.
        **settings: settings by dotted key, laid over the preset's or, to resume, the run's own.

    Returns:
        The run; with ``train.eval_only`` an evaluation of the model that training would start from.

    Raises:
        UsageError: settings that cannot work, or a run folder that exists.
        UserError: bad data, a damaged checkpoint, a full disk, a loss that is not finite.

    Examples:
        >>> import nanogpkant as ng
        >>> short = {"model.n_embd": 8, "train.max_iters": 2, "train.eval_tokens": 500}
        >>> ng.train("quickstart_kan", out="runs/short", **short).step
        2
    """
    if overwrite and (resume or auto_resume):
        raise UsageError("--resume and --overwrite ask for opposite things: give one of them")
    if branch_of is not None and (resume or overwrite):
        raise UsageError("--branch_of starts a new run: leave --resume and --overwrite out")
    from nanogpkant.config import load_preset
    from nanogpkant.run.folder import branch_run, open_run

    if live:
        settings = settings | {"tracking.live": True}
    name, base = load_preset(preset)
    folder = Path("runs") / name if out is None else Path(out)
    folder = open_run(folder).path if resume else folder  # a bare name is one of runs/
    if branch_of is not None and not is_new(folder) and not auto_resume:
        raise UsageError(f"{folder} exists; --auto_resume continues it, or name another --out")
    how = "auto" if auto_resume else resume or branch_of is not None
    settled = partial(_settled, base, folder, bool(how), settings, branch_of)
    config = settled()
    if branch_of is not None and config.train.eval_only:
        raise UsageError(f"--train.eval_only with --branch_of: nanogpkant eval {branch_of} does it")

    def settle() -> "RunConfig":
        config = settled()
        if branch_of is not None and is_new(folder):
            branch_run(open_run(branch_of), folder, config)
        return config

    from nanogpkant.training.loop import train as train_run
    from nanogpkant.training.opening import evaluate_start

    start = None
    if config.train.init_from != "scratch":
        from nanogpkant.conversion import start_from as start
    elif config.train.from_formulas is not None:
        from nanogpkant.conversion.formulas import start_from_formulas as start
    if config.train.eval_only:
        return Evaluated("val", evaluate_start(config, folder, how, start))
    return Trained(**train_run(config, folder, how, overwrite, start, wait, settle))


def _settled(
    base: "RunConfig",
    folder: Path,
    is_resume: bool,
    settings: dict[str, Any],
    branch_of: str | None = None,
) -> "RunConfig":
    """The settings to train with: the run's own, where one is continued, under those given.

    Raises:
        UsageError: a change that a run cannot take.
    """
    from nanogpkant.config import with_settings
    from nanogpkant.run.folder import RunFolder, open_run

    if branch_of is not None and not (folder / "config.yaml").is_file():
        folder = open_run(branch_of).path
    if not (is_resume and (folder / "config.yaml").is_file()):
        config = with_settings(base, settings)
        if config.train.from_formulas is None:
            return config
        from nanogpkant.conversion.formulas import with_formulas

        return with_formulas(config, base)
    base = RunFolder(folder).config()
    config = with_settings(base, settings)
    if (config.model, config.data) != (base.model, base.data):
        raise UsageError(
            f"{folder} is a run of another model or data, which cannot change: leave those flags "
            "out, or name another --out"
        )
    if config.optim.name != base.optim.name:
        raise UsageError("--resume: the optimiser of a run cannot change; leave --optim.name out")
    return config


def track(
    run: str,
    *,
    tracker: Literal["wandb", "tensorboard", "trackio"],
    project: str = "nanogpkant",
    wandb_mode: Literal["offline", "online"] = "offline",
) -> Tracked:
    """Send the metrics, configuration and samples of a run to a tracker.

    Args:
        run: a run's name or folder, finished or still training.
        tracker: where to.
        project: name of the project there.
        wandb_mode: online needs a login.

    Raises:
        UserError: no such run, one without metrics, or a tracker that cannot be opened.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.track("quickstart_kan", tracker="tensorboard").project
        'nanogpkant'
    """
    from nanogpkant.config import TrackingConfig
    from nanogpkant.training.tracking import track_run

    sent = track_run(run, TrackingConfig([tracker], project, wandb_mode))
    return Tracked(run, tracker, project, sent["folder"], sent["rows"])
