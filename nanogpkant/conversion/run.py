"""``nanogpkant convert``: a source as a run of ours, with its function and a KAN where asked."""

from pathlib import Path
from typing import Any

from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import write_json
from nanogpkant.config import RunConfig, save_config, with_changes
from nanogpkant.conversion.source import Source
from nanogpkant.conversion.start import build, check_vocabulary, largest_change_of_logits
from nanogpkant.data import TokenData
from nanogpkant.machine.device import describe
from nanogpkant.run.checkpoint import features_of, write_weights
from nanogpkant.run.folder import WEIGHTS, RunFolder
from nanogpkant.run.load import prepare_data
from nanogpkant.run.manifest import write_manifest
from nanogpkant.share.export import check_is_new, new_folder


def starting_config(source: Source) -> RunConfig:
    """What flags are laid over: the source's own configuration, and bases that keep its function.

    Its ``train.init_from`` names the source, so that training from it repeats the conversion.
    """
    changes = {"train.init_from": source.name}
    if not source.config.model.kan.sites:
        changes["model.kan.base"] = "gpt"
    return with_changes(source.config, **changes)


def convert(source: Source, config: RunConfig, out: Path) -> dict[str, Any]:
    """Write a model that starts as the source as an exported run, weights alone.

    Args:
        source: what ``open_source`` gives.
        config: of the new run; its model has the source's shape, with KAN sites where wanted. Where
            its data is not the source's, it is opened, and prepared first if that needs no network.
        out: the folder to write; one that is there has to be empty.

    Returns:
        {"run", "step", "parameters", "largest_change_of_logits"}: the last on random tokens.

    Raises:
        UserError: shapes or vocabularies that do not go together, bad data, a full disk.
        UsageError: KAN settings with which the function would not be kept, no tokenizer, or ``out``
            holds something.
    """
    check_is_new(out, "--out")
    tokenizer, fingerprint = source.tokenizer, source.data_fingerprint
    if config.data != source.config.data:
        data = TokenData.open(prepare_data(config.data))
        check_vocabulary(source, data)
        tokenizer, fingerprint = data.tokenizer, data.fingerprint
    if tokenizer is None:
        remedy = "name a text that was prepared with its tokenizer: --data.dataset NAME"
        raise UsageError(f"{source.name} has no tokenizer beside it; {remedy}")
    model = build(source, config.model, tokenizer.vocab_size)
    change = largest_change_of_logits(model, source)
    about = {"from": source.name, "largest_change_of_logits": change}
    with new_folder(out) as draft:
        run = RunFolder(draft)
        write_weights(draft / WEIGHTS, model.state_dict(), features_of(model))
        save_config(config, run.config_file)
        tokenizer.save(run.tokenizer_file)
        environment = describe(model.tokens.weight.device)
        environment |= {"data_fingerprint": fingerprint, "converted": about}
        write_json(run.environment_file, environment)
        step = source.checkpoint.step
        write_manifest(draft, step, sorted(path.name for path in draft.iterdir()))
    return {
        "run": str(out),
        "step": step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest_change_of_logits": change,
    }
