"""How often the intervals of a fit hold the planted numbers: minutes.

    python tests/soak/planted_laws.py [laws]

Prints, for each number of a law, in how many of so many planted ones (100) its 95% interval, and in
how many predictions of a held-out cell, the truth lay.
"""

import sys
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "comparison"))

from planted import GRIDS, KAPPA, PLANTED, SIZES, TOKENS, planted

from nanogpkant.comparison.scaling.law import Law, fit


def numbers(law: Law) -> dict[str, float]:
    shared = {key: getattr(law, key) for key in ("E", "alpha", "beta", "kappa0", "gamma")}
    kappas = {f"kappa {name}": law.kappa[name] for name in KAPPA if name != "plain"}
    return shared | kappas | {f"lambda {name}": law.lam[name] for name in KAPPA if name != "plain"}


def main(laws: int) -> None:
    held, predicted, truth = Counter(), 0, numbers(PLANTED)
    for seed in range(laws):
        points = planted(seed, repeats=3)
        largest = [p for p in points if (p.parameters, p.tokens) == (SIZES[-1], TOKENS[-1])]
        found = fit([point for point in points if point not in largest], GRIDS, seed=seed)
        low, high = found.interval(lambda law: np.array(list(numbers(law).values())))
        for name, a, b in zip(truth, low, high, strict=True):
            held[name] += int(a <= truth[name] <= b)
        for point in largest:
            a, b = found.predicted(point.family, point.parameters, point.tokens)
            predicted += int(a <= point.loss <= b)
    for name in truth:
        print(f"{name:<14} {held[name]:>4} of {laws}")
    print(f"{'held-out cells':<14} {predicted:>4} of {laws * len(KAPPA)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
