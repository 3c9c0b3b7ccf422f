"""EleutherAI's lm-evaluation-harness on a run, exported as by ``export --format hf``.

The harness reports perplexity per word or byte, ``evaluation`` per token. Both read a text in
windows of ``block_size`` predictions, each from the tokens before it in the window, so for a
character model and an ASCII text they agree. But the harness also predicts the first token, from
the end-of-text token or, without one, from a new line; and it extends the last window backwards, so
that its predictions see more context.

Source: Gao et al., the Language Model Evaluation Harness (github.com/EleutherAI/lm-evaluation-
harness).
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UsageError, UserError, one_line, require_positive
from nanogpkant.machine.device import resolve_device, resolve_dtype
from nanogpkant.run.load import load_model
from nanogpkant.share.huggingface import write_huggingface


@dataclass(frozen=True)
class HarnessScores(Answer):
    """The harness's figures of a run."""

    scores: dict[str, dict[str, float]]
    """{task: {metric: figure}}, under the harness's names"""

    def as_dict(self) -> dict[str, dict[str, float]]:
        return self.scores

    def words(self) -> str:
        lines = []
        for task, figures in self.scores.items():
            lines += [task, *(f"  {name:<30} {value:.4f}" for name, value in figures.items())]
        return "\n".join(lines)


def run_harness(
    run: str,
    checkpoint: str,
    tasks: list[str] | None,
    limit: int | None,
    device: str,
    dtype: str,
    batch_size: int,
) -> HarnessScores:
    """Run tasks of the harness; see ``verbs.use.evaluate``. The weights are rounded to ``dtype``.

    Raises:
        UserError: the harness is not installed or cannot run the tasks; no such run or checkpoint.
        UsageError: a setting out of its range.
    """
    if not tasks:
        raise UsageError(f"--harness_limit {limit}: is for --harness TASKS, which is missing")
    require_positive(harness_limit=limit, batch_size=batch_size)
    if find_spec("lm_eval") is None:
        remedy = "pip install 'nanogpkant[harness]' brings it"
        raise UserError(f"--harness: the lm-evaluation-harness is not installed; {remedy}")
    on = resolve_device(device, "--device")
    dtype = resolve_dtype(dtype, on, "--dtype")
    trained = load_model(run, checkpoint)
    tokenizer = trained.tokenizer
    start = tokenizer.encode(tokenizer.start)[0] if tokenizer.eot is None else tokenizer.eot
    options = {"prefix_token_id": int(start), "device": str(on), "dtype": dtype}
    with TemporaryDirectory() as folder:
        write_huggingface(Path(folder), trained, trained.model.state_dict())
        try:
            results = _evaluate(folder, tasks, limit, batch_size=batch_size, **options)
        except Exception as error:  # of any kind, from code that is not ours
            problem = one_line(error)
            if "[UNK]" in problem:
                problem = "their text holds characters that the model has never seen"
            raise UserError(f"--harness {' '.join(tasks)}: {problem}") from error
    return HarnessScores({task: _figures(values) for task, values in results.items()})


def _evaluate(folder: str, tasks: list[str], limit: int | None, **options: Any) -> dict[str, Any]:
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=True, split_special_tokens=False
    )
    if tokenizer.eos_token is None:  # the harness cuts texts at one: this one never occurs
        tokenizer.eos_token = tokenizer.pad_token
    model = HFLM(folder, tokenizer=tokenizer, trust_remote_code=True, **options)
    return simple_evaluate(model, tasks=tasks, limit=limit, log_samples=False)["results"]


def _figures(values: dict[str, Any]) -> dict[str, float]:
    """The numbers among a task's metrics; a name without a filter loses its suffix."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in values.items()
        if isinstance(value, int | float)
    }
