"""``nanogpkant eval RUN --harness TASKS``: EleutherAI's lm-evaluation-harness, on an exported run.

The harness sees what anybody would who gets the folder of ``export --format hf``. Its perplexities
are of what a document holds per word or byte, ours per token. Both read a text in windows of
``block_size`` predictions, each from the tokens before it in the window, so for a model of
characters and a text of single bytes they are one figure. But the harness also predicts the first
token, from the one that ends a text or, where there is none, from a new line; and it fills the
last window up with tokens of the one before, so that its predictions have more to go by.

Source: Gao et al., the Language Model Evaluation Harness (github.com/EleutherAI/lm-evaluation-
harness).
"""

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.machine.device import resolve_device, resolve_dtype
from nanogpkant.run.load import load_model
from nanogpkant.share.huggingface import write_huggingface

Figures = dict[str, dict[str, float]]


def run_harness(
    path: Path,
    which: str,
    tasks: list[str] | None,
    limit: int | None,
    device_name: str,
    dtype_name: str,
    batch_size: int,
) -> Figures:
    """Run tasks of the harness.

    Args:
        path, which: the run folder and its checkpoint.
        tasks: names of the harness's own tasks, whose texts it downloads, or .yaml files.
        limit: documents of each task; None takes all.
        device_name, dtype_name: what it runs on; the weights are rounded to that dtype.
        batch_size: sequences at a time.

    Returns:
        {task: {metric: figure}}, as the harness names them.

    Raises:
        UserError: the harness is not installed or cannot run the tasks; no such run or checkpoint.
        UsageError: a setting out of its range.
    """
    if not tasks:
        raise UsageError(f"--harness_limit {limit}: is for --harness TASKS, which is missing")
    if limit is not None and limit < 1:
        raise UsageError(f"--harness_limit {limit}: must be at least 1")
    if batch_size < 1:
        raise UsageError(f"--batch_size {batch_size}: must be at least 1")
    if find_spec("lm_eval") is None:
        remedy = "pip install 'nanogpkant[harness]' brings it"
        raise UserError(f"--harness: the lm-evaluation-harness is not installed; {remedy}")
    device = resolve_device(device_name, "--device")
    dtype = resolve_dtype(dtype_name, device, "--dtype")
    trained = load_model(path, which)
    tokenizer = trained.tokenizer
    start = tokenizer.encode(tokenizer.start)[0] if tokenizer.eot is None else tokenizer.eot
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_huggingface(folder, trained, trained.model.state_dict())
        try:
            results = _evaluate(folder, int(start), tasks, limit, str(device), dtype, batch_size)
        except Exception as error:  # of any kind, and it would not be ours to mend
            problem = " ".join(str(error).split()) or type(error).__name__
            if "[UNK]" in problem:
                problem = "their text holds characters that the model has never seen"
            raise UserError(f"--harness {' '.join(tasks)}: {problem}") from error
    return {task: _figures(values) for task, values in results.items()}


def _evaluate(
    folder: Path,
    start: int,
    tasks: list[str],
    limit: int | None,
    device: str,
    dtype: str,
    batch_size: int,
) -> dict[str, dict[str, Any]]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=True, split_special_tokens=False
    )
    if tokenizer.eos_token is None:  # the harness cuts texts at one: this, nobody ever writes
        tokenizer.eos_token = tokenizer.pad_token
    model = HFLM(
        str(folder),
        tokenizer=tokenizer,
        trust_remote_code=True,
        prefix_token_id=start,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
    )
    return simple_evaluate(model, tasks=tasks, limit=limit, log_samples=False)["results"]


def _figures(values: dict[str, Any]) -> dict[str, float]:
    """Metrics without the name of the filter where there is none, and without what is no figure."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
    }


def in_words(found: Figures) -> str:
    lines = []
    for task, figures in found.items():
        lines.append(task)
        lines += [f"  {name:<30} {value:.4f}" for name, value in figures.items()]
    return "\n".join(lines)
