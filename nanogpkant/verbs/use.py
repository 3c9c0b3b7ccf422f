"""sample and evaluate: a trained model at work."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from nanogpkant.base.answer import Answer
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import read_text
from nanogpkant.verbs.train import Evaluated

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Sampled(Answer):
    """Texts that a model wrote."""

    on_stdout: ClassVar[bool] = False
    prompt: str
    texts: list[str]
    """without the prompt"""
    tokens_per_second: float
    """after the first token, of all texts together"""
    seconds_to_first_token: float

    def as_dict(self) -> dict[str, Any]:
        return {"samples" if name == "texts" else name: value for name, value in vars(self).items()}

    def words(self) -> str:
        first = f"first after {1000 * self.seconds_to_first_token:.0f} ms"
        return f"{self.tokens_per_second:.0f} tokens/s, {first}"


def sample(
    run: str,
    *,
    prompt: str | None = None,
    prompt_file: str | None = None,
    tokens: int = 500,
    samples: int = 1,
    temperature: float = 0.8,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int = 1337,
    no_cache: bool = False,
    checkpoint: str = "best",
    device: str = "auto",
    dtype: Dtype = "float32",
    stream: Callable[[str], None] | None = None,
) -> Sampled:
    """Let a trained model write.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        prompt: text to continue; a new line unless given.
        prompt_file: UTF-8 file with the text to continue.
        tokens: tokens to write.
        samples: texts to write at once.
        temperature: divides the logits; 0 always takes the most likely token.
        top_k: draw from the k most likely tokens; from all unless given.
        top_p: draw from the fewest tokens of at least this total probability, above 0 to 1.
        seed: decides the draws.
        no_cache: recompute the whole context of every token, which is slow.
        checkpoint: best, last, or step-NNNNNN.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the matrix products; auto is the device's fastest.
        stream: called with pieces of text as they are written; the shell prints them.

    Raises:
        UserError: no such run or checkpoint, or a character that the tokenizer does not have.
        UsageError: a setting out of its range.

    Examples:
        >>> import nanogpkant as ng
        >>> answer = ng.sample("pretrained:shakespeare-mini-kan", prompt="ROMEO:", tokens=10)
        >>> len(answer.texts[0])
        10
    """
    if prompt_file is not None and prompt is not None:
        raise UsageError("--prompt and --prompt_file both give a prompt: leave one out")
    from nanogpkant.generation import sample_run

    prompt = prompt if prompt_file is None else read_text(Path(prompt_file))
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed}
    settings |= {"max_new_tokens": tokens, "use_cache": not no_cache}
    found = sample_run(run, checkpoint, prompt, device, dtype, samples, stream, **settings)
    return Sampled(**found)


def evaluate(
    run: str,
    *,
    split: Literal["train", "val", "test"] = "val",
    random_batches: int = 0,
    batch_size: int = 64,
    length: int | None = None,
    seed: int = 1337,
    harness: list[str] | None = None,
    harness_limit: int | None = None,
    checkpoint: str = "best",
    device: str = "auto",
    dtype: Dtype = "float32",
) -> Answer:
    """Measure loss, perplexity, bits per character and accuracy over a whole split.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        split: text to predict.
        random_batches: estimate from this many random batches, as the original did; 0 reads all.
        batch_size: sequences at a time.
        length: tokens of a sequence; the model's block_size without it. Models without learned
            positions take longer ones, too.
        seed: decides the random batches.
        harness: run these tasks of lm-evaluation-harness instead: names, downloaded, or YAML files.
        harness_limit: documents of each task; all unless given.
        checkpoint: best, last, or step-NNNNNN.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the matrix products; auto is the device's fastest.

    Raises:
        UserError: no such run, checkpoint or data, or data other than the run's.
        UsageError: a setting out of its range.

    Examples:
        >>> import nanogpkant as ng
        >>> ng.evaluate("quickstart_kan").loss > 0
        True
    """
    if harness or harness_limit:
        from nanogpkant.share.harness import run_harness

        if split != "val" or random_batches or length is not None:
            flags = "--split, --random_batches, --length"
            raise UsageError(f"--harness: its tasks bring their own texts; leave {flags} out")
        return run_harness(run, checkpoint, harness, harness_limit, device, dtype, batch_size)
    from nanogpkant.evaluation import evaluate_run

    found = evaluate_run(
        run, checkpoint, split, device, dtype, batch_size, random_batches, seed, length
    )
    return Evaluated(split, found)
