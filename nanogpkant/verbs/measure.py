"""What models cost: plan a run, match a model to another, time several side by side."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nanogpkant.base.console import warn
from nanogpkant.base.errors import UsageError
from nanogpkant.base.files import write_atomic
from nanogpkant.config import load_preset, to_yaml, with_settings

if TYPE_CHECKING:
    from nanogpkant.measure.bench import Bench
    from nanogpkant.measure.match import Match
    from nanogpkant.measure.plan import Plan

VARY = ["n_embd", "mlp_ratio"]


def plan(
    preset: str,
    *,
    gpus: int = 1,
    nodes: int = 1,
    gpu: Literal["auto", "here", "h100", "h200", "a100", "4090"] = "auto",
    memory: str | None = None,
    flops_rate: float | None = None,
    vocab_size: int | None = None,
    fit: str | None = None,
    family: str | None = None,
    **settings: Any,
) -> "Plan":
    """Predict memory and time of a training run, and whether it fits, before it starts.

    Args:
        preset: name of a preset (see nanogpkant presets), or a .yaml file.
        gpus: GPUs of a node, one process each.
        nodes: machines with that many GPUs.
        gpu: GPU to plan for; here: this machine's device; auto: here, or an a100 if there is none
            here and --gpus, --nodes or --memory is given.
        memory: of a GPU, such as 80GB or 79GiB; without it, as much as that card has.
        flops_rate: TFLOPS that a GPU reaches in training; without it, measured here or a share of
            the card's peak.
        vocab_size: number of different tokens; without it, that of the prepared data or of a known
            dataset.
        fit: fit.json of nanogpkant scale, whose law then says which loss to expect, and the best
            size and tokens for as many FLOPs.
        family: the preset's family in that law; the first unless given.
        **settings: of the run, by dotted name, over the preset's.

    Raises:
        UsageError: flags or settings that cannot work.
        UserError: damaged token files, or a file that is no fit.

    Examples:
        >>> found = plan("gpt2", gpus=8, gpu="h100")
        >>> found.failure is None, found.setup.sequences
        (True, 12)
    """
    from nanogpkant.measure.plan import make_plan

    if family is not None and fit is None:
        raise UsageError(f"--family {family}: is of a law; add --fit FILE")
    name, base = load_preset(preset)
    config = with_settings(base, settings)
    law = None
    if fit is not None:
        from nanogpkant.comparison.scaling.findings import load_fit

        law = load_fit(Path(fit))
    made = make_plan(name, config, gpus, nodes, gpu, memory, flops_rate, vocab_size)
    if law is None:
        return made
    expected = law.expected(family, made.counted.parameters, made.tokens, made.flops)
    return replace(made, expected=expected)


def match(
    preset: str,
    *,
    by: Literal["params", "flops", "step_time", "memory"] = "params",
    vary: list[str] = VARY,
    kind: Literal["plain", "kan"] | None = None,
    kan: str = "shakespeare_char_micro_kan",
    out: str | None = None,
    vocab_size: int = 65,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    batch_size: int | None = None,
    repeats: int = 7,
) -> "Match":
    """Find the plain GPT, or the KAN, that costs as much as a preset.

    Args:
        preset: model to match: name of a preset, or a .yaml file.
        by: cost that both share; params and flops are counted, step_time and memory measured.
        vary: numbers to change, any of n_layer, n_embd and mlp_ratio; those after the first only
            where that is not within 1%.
        kind: plain or kan; without it, the kind that the preset is not.
        kan: preset or .yaml file with the KAN settings to use.
        out: YAML file to write; without it, the YAML goes to standard output.
        vocab_size: number of different tokens.
        device: where to measure: auto, cpu, cuda, cuda:N or mps.
        dtype: of the matrix products measured; auto is the one that the device is fast at.
        batch_size: sequences in a measured step; without it, the preset's.
        repeats: timed rounds; slow steps get fewer, at least 3.

    Raises:
        UsageError: flags that cannot work.
        UserError: a model that does not fit into memory, or a file that cannot be written.

    Examples:
        >>> found = match("shakespeare_char_micro_kan", vary=["n_layer"])
        >>> found.config.model.n_layer
        20
    """
    from nanogpkant.measure.match import SavedMatch, find_match

    file = None if out is None else new_file(out, ".yaml", ".yml")
    found = find_match(preset, by, vary, kind, kan, vocab_size, device, dtype, batch_size, repeats)
    if file is not None:
        write_atomic(file, to_yaml(found.config))
        return SavedMatch(**vars(found))
    if not found.is_close:
        warn(found.advice())
    return found


def bench(
    presets: list[str],
    *,
    what: Literal["step", "sample"] = "step",
    batch_size: int | None = None,
    tokens: int = 200,
    vocab_size: int | None = None,
    compile: bool = False,
    device: str = "auto",
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    repeats: int = 7,
    out: str | None = None,
) -> "Bench":
    """Time training steps, or sampling, of models side by side.

    All models take turns, so that other load on the machine slows all alike; times are medians in
    milliseconds; "/ first" is the ratio to the first model's, "/ limit" the ratio to the time of
    the model's FLOPs at this machine's rate of a large matrix product.

    Args:
        presets: names of presets, or .yaml files; ratios are to the first.
        what: training steps, with their peak memory; or sampling, with and without the cache.
        batch_size: sequences in a step; without it, each preset's.
        tokens: length of a sampled text, which is always drawn in float32.
        vocab_size: number of different tokens; without it, that of the prepared data or of a known
            dataset.
        compile: compile the models before timing their steps, also those whose preset does not.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: of the matrix products of a step; auto is the one that the device is fast at.
        repeats: timed rounds; slow models get fewer, at least 3.
        out: file for the table: .md, or .json.

    Raises:
        UsageError: flags that cannot work.
        UserError: a model that draws another text with the cache than without.

    Examples:
        >>> bench(["quickstart_kan", "quickstart_gpt"]).rows[1]["over first"]  # doctest: +SKIP
        0.62
    """
    from nanogpkant.measure.bench import bench_sampling, bench_steps

    file = None if out is None else new_file(out, ".md", ".json")
    if what == "step":
        found = bench_steps(presets, batch_size, vocab_size, compile, device, dtype, repeats)
    elif batch_size is not None or compile or dtype != "auto":
        raise UsageError("--batch_size, --compile, --dtype: are for --what step; leave them out")
    else:
        found = bench_sampling(presets, tokens, vocab_size, device, repeats)
    if file is not None:
        found.save(file)
    return found


def new_file(out: str, *endings: str) -> Path:
    """A file to write; refused before anything is measured.

    Raises:
        UsageError: it exists, or ends otherwise.
    """
    file = Path(out)
    if file.suffix not in endings:
        raise UsageError(f"--out {out}: name a file that ends in {' or '.join(endings)}")
    if file.exists():
        raise UsageError(f"--out {out}: exists; remove it, or name another file")
    return file
