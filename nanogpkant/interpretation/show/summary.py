"""The results of an interpretation as numbers, and in sentences."""

from typing import Any

import numpy as np

from nanogpkant.interpretation.fit.formulas import ACCEPTED
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.machine.device import peak_memory


def summary(interpretation: Interpretation) -> dict[str, Any]:
    """The results as numbers.

    ``explained`` is the share of the splines' gain over means that formulas keep: (mean - formula)
    / (mean - spline) of the losses; None where means are no worse than splines. Shares
    ``of_importance`` are of the sum of squared importances.
    """
    edges, totals = interpretation.edges, interpretation.totals.set_index("replacement")
    loss: dict[str, float] = totals["loss"].to_dict()
    power = np.square(edges["importance"].to_numpy(dtype=np.float64))
    power = power / max(power.sum(), 1e-300)
    gained, kept = loss["mean"] - loss["spline"], loss["mean"] - loss["formula"]
    ranks = interpretation.rank_correlations.set_index("score").astype(object)
    has_formula = edges["accepted"].to_numpy()
    return {
        "run": str(interpretation.run.path),
        "step": interpretation.trained.step,
        "layers": list(interpretation.layers),
        "edges": len(edges),
        "accepted": float(has_formula.mean()),
        "accepted_of_importance": float(power[has_formula].sum()),
        "families": edges["family"].value_counts(normalize=True).round(6).to_dict(),
        "totals": totals.drop(columns="tokens").to_dict("index"),
        "total_tokens": int(totals["tokens"].iloc[0]),
        "explained": kept / gained if gained > 0 else None,
        "rank_correlations": ranks.where(ranks.notna(), None).to_dict("index"),
        "layer_importance": interpretation.by_layer.set_index("layer")["importance"].to_dict(),
        "atlas": {
            "shapes": len(interpretation.atlas.shapes),
            "variance_of_components": interpretation.atlas.variance,
            **interpretation.atlas_score,
        },
        "seconds": {name: round(spent, 2) for name, spent in interpretation.seconds.items()},
        "peak_memory_bytes": peak_memory(interpretation.model.tokens.weight.device),
    }


def words(found: dict[str, Any]) -> list[str]:
    """The results in sentences, the most important first."""
    atlas, rank = found["atlas"], found["rank_correlations"]["std_grad"]["with_kl"]
    loss = {
        name: f"{row['loss']:.4f} ({row['added']:+.4f})" for name, row in found["totals"].items()
    }
    predicted = (  # no rank is above another where no edge matters, as after text of one character
        "which cannot be measured: none of them matters"
        if rank is None
        else f"with a rank correlation of {rank:.2f}"
    )
    contributed = (
        "The curves contribute nothing to be explained, as after little training"
        if found["explained"] is None
        else f"Formulas explain {found['explained']:.2%} of what the curves contribute"
    )
    return [
        f"With every one of {found['edges']:,} edges replaced by its formula, the model's loss is "
        f"{loss['formula']} nats per token, where the splines themselves as tables give "
        f"{loss['spline']} and the model as it is {found['totals']['original']['loss']:.4f}.",
        f"{contributed}: the loss is {loss['line']} with every edge a line, {loss['mean']} with "
        f"its mean, {loss['zero']} with nothing. Measured on {found['total_tokens']:,} tokens of "
        "the validation split.",
        f"R² is {1 - ACCEPTED} or above for {found['accepted']:.1%} of the edges, which hold "
        f"{found['accepted_of_importance']:.1%} of the importance; with the others left as splines "
        f"the loss is {loss['formula where it fits']}.",
        f"Importance predicts the effect of removing single edges, {predicted}.",
        f"{atlas['shapes']} shapes, each with a gain and an offset an edge, stand for all edges at "
        f"{atlas['added']:+.4f} nats per token; three principal components hold "
        f"{sum(atlas['variance_of_components'][:3]):.1%} of the variance of their shapes.",
    ]
