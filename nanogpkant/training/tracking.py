"""Trackers: the rows of metrics.jsonl in W&B, TensorBoard or Trackio.

``train`` sends rows as they are logged; ``track_run`` sends those of an existing run.
"""

import importlib.util
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanogpkant.base.console import bar, note
from nanogpkant.base.errors import UserError, one_line
from nanogpkant.base.files import read_text, writing
from nanogpkant.base.lock import only_writer
from nanogpkant.config import RunConfig, Tracker, TrackingConfig, load_config, with_changes
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.metrics import read_metrics

Values = dict[str, bool | int | float | str]


class TensorBoard:
    """TensorBoard's event files, in a folder."""

    def __init__(self, folder: Path, settings: Values, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # purge_step drops the rows from that step on in earlier files of the folder.
        self._writer = SummaryWriter(str(folder), purge_step=step)
        self._writer.add_hparams(settings, metric_dict={})

    def log(self, values: Values, step: int) -> None:
        for name, value in values.items():
            add = self._writer.add_text if isinstance(value, str) else self._writer.add_scalar
            add(name, value, global_step=step)
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()


class WandB:
    """A run of W&B."""

    def __init__(
        self,
        run: RunFolder,
        folder: Path,
        tracking: TrackingConfig,
        settings: Values,
        run_id: str | None,
    ) -> None:
        import wandb

        self._run = wandb.init(
            project=tracking.project,
            name=run.path.name,
            dir=str(folder),
            mode=tracking.wandb_mode,
            id=run_id,
            resume="allow",
        )
        self._run.config.update(settings, allow_val_change=True)  # a resumed run may have others

    def log(self, values: Values, step: int) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


class Trackio:
    """A run of Trackio."""

    def __init__(self, run: RunFolder, tracking: TrackingConfig, **how: Any) -> None:
        import trackio

        with _without_the_hub():
            self._run = trackio.init(project=tracking.project, name=run.path.name, **how)

    def log(self, values: Values, step: int) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        import trackio

        self._run.finish()
        trackio.finish()  # or it would finish, and say so, when the program ends


OpenTracker = TensorBoard | WandB | Trackio


def check_trackers(tracking: TrackingConfig) -> None:
    """Make sure that the trackers can start, before anything is trained or written.

    Only W&B's online mode, which has to be asked for, uses the network.

    Raises:
        UserError: a tracker's library is not installed, or W&B does not know who is asking.
    """
    for tracker in _trackers(tracking):
        if importlib.util.find_spec(tracker) is None:
            remedy = "pip install 'nanogpkant[track]', or leave it out"
            raise UserError(f"the tracker {tracker} is not installed: {remedy}")
    if "wandb" not in tracking.trackers:
        return
    if tracking.wandb_mode == "online":
        _log_in_to_wandb()
    else:  # offline, W&B still reports on itself, unless told not to before it is imported
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def _trackers(tracking: TrackingConfig) -> list[Tracker]:
    """The trackers to start, each once."""
    live: list[Tracker] = ["trackio"] if tracking.live else []
    return list(dict.fromkeys([*tracking.trackers, *live]))


def _log_in_to_wandb() -> None:
    import wandb

    remedy = "wandb_mode offline needs no account, and wandb sync sends it later"
    try:
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise UserError(f"W&B online: {one_line(error)}; {remedy}") from error
    if not known:
        raise UserError(f"W&B online: not logged in: run wandb login first; {remedy}")


def start_trackers(
    config: RunConfig, run: RunFolder, folder: Path, step: int, run_id: str | None
) -> list[OpenTracker]:
    """Open the trackers that a configuration names.

    Args:
        folder: for the trackers' files.
        step: of the first row to come; above 0 the trackers' own run is resumed.
        run_id: W&B's id of that run; None is a new one.

    Raises:
        UserError: one of them cannot be opened.
    """
    tracking, settings = config.tracking, settings_in(asdict(config))

    def start(name: Tracker) -> OpenTracker:
        if name == "tensorboard":
            return TensorBoard(folder / tracking.project, settings, step)
        if name == "wandb":
            return WandB(run, folder, tracking, settings, run_id)
        resume = "allow" if step else "never"
        return Trackio(run, tracking, config=settings, resume=resume)

    if tracking.live:  # read when Trackio is imported
        os.environ.setdefault("TRACKIO_DIR", str(folder.absolute() / "trackio"))
    names = _trackers(tracking)
    try:
        # Trackio greets on standard output, and names commands that --live makes needless.
        with redirect_stdout(io.StringIO() if tracking.live else sys.stderr):
            started = [start(name) for name in names]
            if tracking.live:
                _open_dashboard(tracking.project)
            return started
    except Exception as error:  # whatever a tracker raises
        raise UserError(f"--tracking.trackers {', '.join(names)}: {one_line(error)}") from error


def _open_dashboard(project: str) -> None:
    """Serve Trackio's dashboard on this machine alone, until the program ends."""
    import trackio

    shown = trackio.show(project, host="127.0.0.1", share=False, block_thread=False)
    note(f"the dashboard, while this trains: {shown[-1]}")


@contextmanager
def _without_the_hub() -> Iterator[None]:
    """Keep Trackio from asking the Hub who its user is, unless it is told to write there."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys():
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def settings_in(values: dict[str, Any], prefix: str = "") -> Values:
    """Settings by dotted name; a value that is neither a number nor text becomes text."""
    flat: Values = {}
    for key, value in values.items():
        if isinstance(value, dict) and all(isinstance(inner, str) for inner in value):
            flat |= settings_in(value, f"{prefix}{key}.")
        else:
            known = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{key}"] = value if known else str(value)
    return flat


def log_row(trackers: list[OpenTracker], row: dict[str, Any]) -> None:
    """Send the numbers of a row of metrics.jsonl to trackers."""
    if not trackers:
        return
    values = {key: value for key, value in row.items() if key not in ("step", "split")}
    for tracker in trackers:
        tracker.log(dict(numbers_in(values, row["split"])), step=row["step"])


def numbers_in(values: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested dicts, by path: {"grid/layers/NAME/dead": 0.1}."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= numbers_in(value, f"{prefix}/{key}")
        elif isinstance(value, int | float):
            flat[f"{prefix}/{key}"] = value
    return flat


def stop_trackers(trackers: list[OpenTracker], run: RunFolder, step: int) -> None:
    """Send the run's samples, if there are any, and close the trackers."""
    with redirect_stdout(sys.stderr):
        for tracker in trackers:
            if run.samples_file.exists():
                tracker.log({"samples": read_text(run.samples_file)}, step=step)
            tracker.finish()


def track_run(path: str | Path, tracking: TrackingConfig) -> dict[str, Any]:
    """Send the metrics, configuration and samples of a run, finished or not, to trackers.

    Sent again, it becomes a new run in W&B and Trackio: resuming a W&B run would drop rows of the
    last step, which may be incomplete. In TensorBoard it replaces the rows sent before.

    Args:
        path: the run folder. Trackers keep their files there, as they do in training; for an
            exported run, which stays as it is, in runs/NAME.
        tracking: which trackers, and under which project.

    Returns:
        {"folder", "rows"}: where the trackers' files are, and how many rows were sent.

    Raises:
        UserError: no such run, one without metrics, or a tracker that cannot be opened.
    """
    check_trackers(tracking)
    run = open_run(path)
    rows = read_metrics(run.metrics_file)
    if not rows:
        raise UserError(f"{path} has no metrics yet: let it train first")
    config = with_changes(load_config(run.config_file), tracking=tracking)
    folder = Path("runs") / run.path.name if run.is_exported else run.path
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder / tracking.project), bar("sending", "rows") as progress:
        trackers = start_trackers(config, run, folder, step=0, run_id=None)
        for number, row in enumerate(rows, start=1):
            log_row(trackers, row)
            progress(number, len(rows))
        stop_trackers(trackers, run, rows[-1]["step"])
    return {"folder": str(folder), "rows": len(rows)}
