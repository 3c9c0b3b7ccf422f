"""The project's targets, compared with measurements."""

from dataclasses import dataclass

from benchmarks.speed.names import (
    BARE_PRODUCTS,
    BOOSTED,
    KAN,
    ORIGINAL_LAYER,
    ORIGINAL_MODEL,
    OURS,
    is_rival,
)
from nanogpkant.report.table import Row


@dataclass(frozen=True)
class Goal:
    """A ratio that should be at most, or at least, a target."""

    what: str
    target: float
    measured: float | None
    """None if one side of the ratio was not measured"""
    at_most: bool = True

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.target if self.at_most else self.measured >= self.target

    def as_dict(self) -> Row:
        share = None if self.measured is None else self.measured / self.target - 1
        return {
            "goal": self.what,
            "target": f"{'at most' if self.at_most else 'at least'} {self.target:g}",
            "measured": self.measured,
            "met": self.met,
            "against the target": "not measured" if share is None else f"{share:+.0%}",
        }


def layer_goals(rows: list[Row], on_gpu: bool) -> list[Goal]:
    """Goals of the layer, for every measured shape and dtype."""
    goals = []
    for where, times in _by_problem(rows).items():
        ours = times.get(OURS)
        rivals = {name: ms for name, ms in times.items() if is_rival(name)}
        products = "cuBLAS's three products" if on_gpu else "the three products alone"
        target = 1.30 if on_gpu else 1.15
        ratio = _ratio(ours, times.get(BARE_PRODUCTS))
        goals.append(Goal(f"{where}: ours over {products}", target, ratio))
        fastest = min(rivals, key=rivals.__getitem__, default=None)
        target = 2.0 if on_gpu else 1.3
        ratio = _ratio(rivals.get(fastest), ours)
        goals.append(Goal(f"{where}: fastest rival ({fastest}) over ours", target, ratio, False))
    return goals + (_against_the_original(rows) if on_gpu else [])


def _against_the_original(rows: list[Row]) -> list[Goal]:
    """Time of the original layer in float32 over ours in the device's fast dtype."""
    goals = []
    for shape in dict.fromkeys(row["shape"] for row in rows):
        times = {(row["layer"], row["dtype"]): row["ms"] for row in rows if row["shape"] == shape}
        ours = times.get((OURS, "bf16")) or times.get((OURS, "fp32"))
        ratio = _ratio(times.get((ORIGINAL_LAYER, "fp32")), ours)
        goals.append(Goal(f"{shape}: the original's layer (fp32) over ours", 20.0, ratio, False))
    return goals


def _by_problem(rows: list[Row]) -> dict[str, dict[str, float]]:
    """{shape and dtype: {contender: milliseconds}} of timed contenders."""
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        problem = times.setdefault(f"{row['shape']}, {row['dtype']}", {})
        if row["ms"] is not None:
            problem[row["layer"]] = row["ms"]
    return times


def step_goals(rows: list[Row], on_gpu: bool) -> list[Goal]:
    """Goals of the training step and its memory, with the original's dropout."""
    by_model = {row["model"]: row for row in rows if row["dropout"] > 0}

    def ratio(of: str, to: str, key: str) -> float | None:
        one, other = by_model.get(of, {}), by_model.get(to, {})
        return _ratio(one.get(key), other.get(key))

    original = ratio(ORIGINAL_MODEL, KAN, "ms")
    most_memory, memory = 1.2 if on_gpu else 1.0, ratio(KAN, BOOSTED, "peak MB")
    return [
        Goal("step of the KAN over the 16-layer GPT", 1.0, ratio(KAN, BOOSTED, "ms")),
        Goal("step of the original's KAN (eager, fp32) over ours", 12.0, original, False),
        Goal("peak memory of the KAN over the 16-layer GPT", most_memory, memory),
    ]


def _ratio(of: float | None, to: float | None) -> float | None:
    return of / to if of is not None and to else None
