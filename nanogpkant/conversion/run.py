"""A model that starts as another one, written as a run."""

from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError
from nanogpkant.config import RunConfig, with_changes
from nanogpkant.conversion.source import ModelSource
from nanogpkant.conversion.start import build, check_vocabulary, largest_change_of_logits
from nanogpkant.data import TokenData
from nanogpkant.run.checkpoint import write_run
from nanogpkant.run.load import prepare_data


def starting_config(source: ModelSource) -> RunConfig:
    """The source's configuration, with base functions that keep its function.

    Its ``train.init_from`` names the source: training from this configuration converts again.
    """
    changes = {"train.from_formulas": None, "train.init_from": source.name}
    if not source.config.model.kan.sites:
        changes["model.kan.base"] = "gpt"
    return with_changes(source.config, **changes)


def convert(source: ModelSource, config: RunConfig, out: Path) -> dict[str, Any]:
    """Write a model that computes the source's function as an exported run.

    Args:
        source: see ``open_source``.
        config: of the new run: the source's shape, with KAN sites where wanted. Data other than the
            source's is opened, and prepared first if that needs no network.
        out: the folder to write; it must not exist, or be empty.

    Returns:
        {"run", "step", "parameters", "largest_change_of_logits"}, the last on random tokens.

    Raises:
        UserError: shapes or vocabularies that do not fit, bad data, a full disk.
        UsageError: KAN settings that would change the function, no tokenizer, or ``out`` is not
            empty.
    """
    tokenizer, fingerprint = source.tokenizer, source.data_fingerprint
    if config.data != source.config.data:
        data = TokenData.open(prepare_data(config.data))
        check_vocabulary(source, data)
        tokenizer, fingerprint = data.tokenizer, data.fingerprint
    if tokenizer is None:
        remedy = "name a text that was prepared with its tokenizer: --data.dataset NAME"
        raise UsageError(f"{source.name} has no tokenizer beside it; {remedy}")
    model = build(source, config.model, tokenizer.vocab_size)
    change = {"largest_change_of_logits": largest_change_of_logits(model, source)}
    about = {"data_fingerprint": fingerprint, "converted": {"from": source.name, **change}}
    step = source.checkpoint.step
    write_run(out, model, config, tokenizer, step, about)
    parameters = sum(p.numel() for p in model.parameters())
    return {"run": str(out), "step": step, "parameters": parameters, **change}
