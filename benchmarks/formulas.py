"""R² and time of fitting formulas to the same edges with nanogpkant and pykan.

    pip install pykan
    python benchmarks/formulas.py runs/NAME --json results/formulas.json

Everything runs on one core and is timed in CPU seconds. pykan fits a*f(b*x + c) + d with each of
its functions, as its ``suggest_symbolic`` does. The best R² of either library is compared, at any
complexity; "chosen" is the formula that nanogpkant reports, the simplest of about the same R². It
is computed here, in float64, over the same points and weights; the script fails if nanogpkant's own
R² of the chosen formulas differs.
"""

import argparse
import contextlib
import io
import json
import time
from pathlib import Path

import numpy as np
import torch

from nanogpkant.interpretation import Interpretation
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.observe.curves import points, tabulate, weights
from nanogpkant.machine.device import measured_on

DRAWS = 200  # inputs of an edge for pykan, sampled from their distribution


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", help="run folder")
    parser.add_argument("--edges", type=int, default=192, help="drawn from all layers alike")
    parser.add_argument("--seed", type=int, default=0, help="decides which edges")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    interpretation = Interpretation(options.run, device="cpu")
    at, share, curves = chosen_edges(interpretation, options.edges, options.seed)
    chosen, ours, our_seconds = by_nanogpkant(at, share, curves)
    theirs, their_seconds = by_pykan(at, share, curves, options.seed)
    every, all_seconds = all_edges(interpretation)
    found = {
        "command": f"python benchmarks/formulas.py {options.run} --edges {options.edges}",
        "machine": measured_on(torch.device("cpu")),
        "threads": 1,
        "draws_for_pykan": DRAWS,
        "edges": options.edges,
        "nanogpkant": describe(ours, our_seconds),
        "nanogpkant_chosen": describe(chosen, our_seconds),
        "pykan": describe(theirs, their_seconds),
        "pykan_better_by_more_than_0.001": int((theirs > ours + 1e-3).sum()),
        "nanogpkant_better_by_more_than_0.001": int((ours > theirs + 1e-3).sum()),
        "worst_difference": float((ours - theirs).min()),
        "times_faster_on_the_same_edges": their_seconds / our_seconds,
        "all_edges": {"edges": every, "seconds": all_seconds, "edges_per_s": every / all_seconds},
    }
    text = json.dumps(found, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


def chosen_edges(
    interpretation: Interpretation, count: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """E random edges that are not flat: points (G, E), weights (G, E) and curves (G, 1, E)."""
    random, parts = np.random.default_rng(seed), []
    for number, (name, layer) in enumerate(interpretation.layers.items()):
        at = points(interpretation.observed[name])
        share, curves = weights(interpretation.observed[name], at), tabulate(layer, at)
        wanted = count // len(interpretation.layers) + (number < count % len(interpretation.layers))
        loud = (curves.std(0) > 1e-4 * curves.std()).nonzero().numpy()
        output, input = random.choice(loud, wanted, replace=False).T
        parts.append((at[:, input], share[:, input], curves[:, output, input][:, None]))
    return tuple(torch.cat(part, dim=-1) for part in zip(*parts, strict=True))


def by_nanogpkant(
    at: torch.Tensor, share: torch.Tensor, curves: torch.Tensor
) -> tuple[np.ndarray, np.ndarray, float]:
    """R² of every edge's chosen formula and of its best one, and the CPU seconds of the fit."""
    fit(at[:, :2], share[:, :2], curves[:, :, :2])  # warm-up
    started = time.process_time()
    fits = fit(at, share, curves)
    seconds = time.process_time() - started
    found = r2(fits.evaluate(at.double()), share, curves)[0]
    wrong = np.abs(found - fits.r2[0].numpy())
    assert wrong.max() < 1e-4, f"R² differs from that of the formula by {wrong.max():g}"
    best = 1 - fits.front[0].double().min(-1).values.numpy()
    return found, np.maximum(best, found), seconds


def by_pykan(
    at: torch.Tensor, share: torch.Tensor, curves: torch.Tensor, seed: int
) -> tuple[np.ndarray, float]:
    """The best R² of every edge among pykan's functions, and the CPU seconds of the fit."""
    from kan.utils import SYMBOLIC_LIB, fit_params

    random = torch.Generator().manual_seed(seed)
    best, seconds = [], 0.0
    for edge in range(at.shape[1]):
        x, y = at[:, edge].double(), curves[:, 0, edge].double()
        drawn = torch.multinomial(share[:, edge], DRAWS, replacement=True, generator=random)
        scores = []
        for function, *_ in SYMBOLIC_LIB.values():
            started = time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ValueError):
                (a, b, c, d), _ = fit_params(x[drawn], y[drawn], function, verbose=False)
                seconds += time.process_time() - started
                says = torch.nan_to_num(c * function(a * x + b) + d)
                one = says[:, None, None], share[:, edge, None], y[:, None, None]
                scores.append(float(r2(*one)[0, 0]))
        best.append(max(scores))
    return np.array(best), seconds


def r2(values: torch.Tensor, share: torch.Tensor, curves: torch.Tensor) -> np.ndarray:
    """(m, n): weighted R² of values for the curves (G, m, n)."""
    share = (share / share.sum(0)).double()[:, None]
    curves = curves.double()
    mean = (share * curves).sum(0)
    left = (share * (values.double() - curves).square()).sum(0)
    return (1 - left / (share * (curves - mean).square()).sum(0)).numpy()


def all_edges(interpretation: Interpretation) -> tuple[int, float]:
    """Number of edges, and the CPU seconds to fit formulas to all of them."""
    edges, seconds = 0, 0.0
    for name, layer in interpretation.layers.items():
        at = points(interpretation.observed[name])
        share, curves = weights(interpretation.observed[name], at), tabulate(layer, at)
        started = time.process_time()
        fit(at, share, curves)
        seconds += time.process_time() - started
        edges += layer.in_features * layer.out_features
    return edges, seconds


def describe(found: np.ndarray, seconds: float) -> dict[str, float]:
    return {
        "seconds": seconds,
        "edges_per_s": len(found) / seconds,
        "mean_r2": float(found.mean()),
        "lowest_r2": float(found.min()),
        "share_above_0.99": float((found >= 0.99).mean()),
    }


if __name__ == "__main__":
    main()
