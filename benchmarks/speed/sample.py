"""Sampling with and without the key-value cache; both must give the same text."""

from functools import partial

from benchmarks.speed.charts import sample_bars
from benchmarks.speed.report import Report, Table, require_above_zero
from nanogpkant.config import load_preset
from nanogpkant.machine.device import measured_on, resolve_device
from nanogpkant.measure.sampling import sampling_rows, untrained
from nanogpkant.model.counting import SHAKESPEARE_CHARACTERS

COLUMNS = {key: key for key in ("sampling", "tokens/s", "ms/token", "min", "max", "speed-up")}


def run(
    *,
    preset: str = "shakespeare_char_micro_kan",
    tokens: int = 1000,
    device: str = "auto",
    repeats: int = 7,
    out: str | None = None,
) -> Report:
    """Time sampling with and without the cache.

    Args:
        preset: model that writes, untrained.
        tokens: characters to write.
        device: auto, cpu, cuda, cuda:N or mps.
        repeats: timed rounds; slow ways get fewer, at least 3.
        out: folder for the tables (.json, .md) and the chart (.png).

    Raises:
        UserError: the two texts differ.
    """
    require_above_zero(repeats=repeats, tokens=tokens)
    where = resolve_device(device, "--device")
    model = untrained(load_preset(preset)[1].model, SHAKESPEARE_CHARACTERS, where)
    rows = sampling_rows([(preset, model)], tokens, repeats, where)
    title = f"{tokens} characters from {preset}, one text"
    report = Report("sample", title, measured_on(where, f"{repeats} rounds"))
    report.tables.append(Table(title, rows, COLUMNS))
    report.draw = partial(sample_bars, rows)
    report.save(out)
    return report
