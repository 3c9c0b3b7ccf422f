"""A model that starts as another one, written as a run."""

from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import new_folder, write_json
from nanogpkant.config import RunConfig, save_config, with_changes
from nanogpkant.conversion.source import ModelSource
from nanogpkant.conversion.start import build, check_vocabulary, largest_change_of_logits
from nanogpkant.data import TokenData
from nanogpkant.machine.device import describe
from nanogpkant.run.checkpoint import features_of, write_weights
from nanogpkant.run.folder import WEIGHTS, RunFolder
from nanogpkant.run.load import prepare_data
from nanogpkant.run.manifest import write_manifest


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
    with new_folder(out) as draft:
        run = RunFolder(draft)
        write_weights(draft / WEIGHTS, model.state_dict(), features_of(model))
        save_config(config, run.config_file)
        tokenizer.save(run.tokenizer_file)
        made = {"data_fingerprint": fingerprint, "converted": {"from": source.name, **change}}
        write_json(run.environment_file, describe(model.tokens.weight.device) | made)
        write_manifest(draft, source.checkpoint.step, sorted(path.name for path in draft.iterdir()))
    parameters = sum(p.numel() for p in model.parameters())
    return {"run": str(out), "step": source.checkpoint.step, "parameters": parameters, **change}
