"""Trackers: the rows of metrics.jsonl in W&B, TensorBoard or Trackio, through accelerate.

``train`` sends the rows while they are made; ``track_run`` sends those of a run that is there.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from huggingface_hub import constants

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UserError
from nanogpkant.base.files import read_text, writing
from nanogpkant.config import RunConfig, TrackingConfig, load_config, with_changes
from nanogpkant.run.folder import RunFolder, open_run
from nanogpkant.run.metrics import read_metrics


def check_trackers(tracking: TrackingConfig) -> None:
    """Make sure that the trackers can start, before anything is trained or written.

    Only W&B's online mode, which has to be asked for, uses the network.

    Raises:
        UserError: a tracker's library is not installed, or W&B does not know who is asking.
    """
    for tracker in tracking.trackers:
        if importlib.util.find_spec(tracker) is None:
            remedy = "pip install 'nanogpkant[track]', or leave it out"
            raise UserError(f"the tracker {tracker} is not installed: {remedy}")
    if "wandb" not in tracking.trackers:
        return
    if tracking.wandb_mode == "online":
        _log_in_to_wandb()
    else:  # offline, W&B still reports on itself, unless told not to before it is imported
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")


def _log_in_to_wandb() -> None:
    import wandb

    remedy = "wandb_mode offline needs no account, and wandb sync sends it later"
    try:
        known = wandb.login(prompt=False)
    except wandb.Error as error:
        raise UserError(f"W&B online: {' '.join(str(error).split())}; {remedy}") from error
    if not known:
        raise UserError(f"W&B online: not logged in: run wandb login first; {remedy}")


def start_trackers(
    accelerator: Accelerator, config: RunConfig, run: RunFolder, step: int, run_id: str | None
) -> None:
    """Open the trackers that a configuration names.

    Args:
        step: of the first row to come; above 0 the trackers' own run goes on.
        run_id: W&B's id of that run; None is a new one.

    Raises:
        UserError: one of them cannot be opened.
    """
    tracking = config.tracking
    if not tracking.trackers:
        return
    name = run.path.name
    options = {
        "wandb": {
            "name": name,
            "dir": accelerator.project_dir,
            "mode": tracking.wandb_mode,
            "id": run_id,
            "resume": "allow",
        },
        # It forgets what earlier files in the same folder have from that step on.
        "tensorboard": {"purge_step": step},
        "trackio": {"name": name, "resume": "allow" if step else "never"},
    }
    try:
        with redirect_stdout(sys.stderr), _without_the_hub():  # Trackio greets on standard output
            accelerator.init_trackers(tracking.project, settings_in(asdict(config)), options)
    except Exception as error:  # whatever a tracker raises
        reason = " ".join(str(error).split())
        raise UserError(f"--tracking.trackers {', '.join(tracking.trackers)}: {reason}") from error


@contextmanager
def _without_the_hub() -> Iterator[None]:
    """Keep Trackio from asking the Hub who its user is, unless it is told to write there."""
    before = constants.HF_HUB_OFFLINE
    if not {"TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"} & os.environ.keys():
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def settings_in(values: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """The settings of a configuration, by dotted name; what is neither number nor text as text."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in values.items():
        if isinstance(value, dict) and all(isinstance(inner, str) for inner in value):
            flat |= settings_in(value, f"{prefix}{key}.")
        else:
            known = isinstance(value, bool | int | float | str)
            flat[f"{prefix}{key}"] = value if known else str(value)
    return flat


def log_row(accelerator: Accelerator, row: dict[str, Any]) -> None:
    """Send the numbers of a row of metrics.jsonl to the trackers."""
    values = {key: value for key, value in row.items() if key not in ("step", "split")}
    accelerator.log(numbers_in(values, row["split"]), step=row["step"])


def numbers_in(values: dict[str, Any], prefix: str) -> dict[str, float]:
    """The numbers of nested dicts, by path: {"grid/layers/NAME/dead": 0.1}."""
    flat: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= numbers_in(value, f"{prefix}/{key}")
        elif not isinstance(value, str):
            flat[f"{prefix}/{key}"] = value
    return flat


def stop_trackers(accelerator: Accelerator, run: RunFolder, step: int) -> None:
    """Send what the model wrote by that step, if it did, and close the trackers."""
    if run.samples_file.exists():
        accelerator.log({"samples": read_text(run.samples_file)}, step=step)
    with redirect_stdout(sys.stderr):
        for tracker in accelerator.trackers:
            tracker.finish()
        if any(tracker.name == "trackio" for tracker in accelerator.trackers):
            import trackio

            trackio.finish()  # or it would finish, and say so, when the program ends


def track_run(path: Path, tracking: TrackingConfig) -> dict[str, Any]:
    """Send the metrics, configuration and samples of a run, finished or not, to trackers.

    Sent again, it is another run in W&B and Trackio: W&B would drop rows of the last step that it
    has, which may not have been whole. In TensorBoard it takes the place of what was sent before.

    Args:
        path: the run folder. Trackers keep their files there, as they do in training; for an
            exported run, which stays as it is, in runs/NAME.
        tracking: which trackers, and under which project.

    Returns:
        {"run", "to", "project", "folder", "rows"}.

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
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=True, log_with=tracking.trackers, project_dir=str(folder))
    start_trackers(accelerator, config, run, step=0, run_id=None)
    with bar("sending", "rows") as progress:
        for number, row in enumerate(rows, start=1):
            log_row(accelerator, row)
            progress(number, len(rows))
    stop_trackers(accelerator, run, rows[-1]["step"])
    return {
        "run": str(path),
        "to": tracking.trackers,
        "project": tracking.project,
        "folder": str(folder),
        "rows": len(rows),
    }
