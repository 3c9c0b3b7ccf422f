"""The results of an interpretation as numbers, and in sentences."""

from typing import Any

import numpy as np

from nanogpkant.interpretation.fit.distance import LAWS
from nanogpkant.interpretation.fit.formulas import ACCEPTED
from nanogpkant.interpretation.interpretation import Interpretation
from nanogpkant.machine.device import peak_memory


def summary(interpretation: Interpretation) -> dict[str, Any]:
    """The results as numbers, of edges and of curves of distance, where the model has these.

    ``explained`` is the share of the splines' gain over means that formulas keep: (mean - formula)
    / (mean - spline) of the losses; None where means are no worse than splines. Shares
    ``of_importance`` are of the sum of squared importances.
    """
    found: dict[str, Any] = {
        "run": str(interpretation.run.path),
        "step": interpretation.trained.step,
        "layers": list(interpretation.layers),
    }
    found |= _of_edges(interpretation) if interpretation.layers else {}
    found |= {"curves": _of_curves(interpretation)} if interpretation.curves else {}
    return found | {
        "seconds": {name: round(spent, 2) for name, spent in interpretation.seconds.items()},
        "peak_memory_bytes": peak_memory(interpretation.model.tokens.weight.device),
    }


def _of_curves(interpretation: Interpretation) -> dict[str, Any]:
    heads, totals = interpretation.heads, interpretation.curve_totals
    totals = totals.query("layers == 'all'").set_index("replacement")
    tokens = totals.pop("tokens").to_numpy()
    accepted = heads.query("accepted")
    return {
        "layers": list(interpretation.curves),
        "heads": len(heads),
        "accepted": len(accepted) / len(heads),
        "verdicts": accepted["verdict"].value_counts().to_dict(),
        "totals": totals.drop(columns="layers").to_dict("index"),
        "total_tokens": int(tokens[0]),
    }


def _of_edges(interpretation: Interpretation) -> dict[str, Any]:
    edges, totals = interpretation.edges, interpretation.totals.set_index("replacement")
    loss: dict[str, float] = totals["loss"].to_dict()
    power = np.square(edges["importance"].to_numpy(dtype=np.float64))
    power = power / max(power.sum(), 1e-300)
    gained, kept = loss["mean"] - loss["spline"], loss["mean"] - loss["formula"]
    ranks = interpretation.rank_correlations.set_index("score").astype(object)
    has_formula = edges["accepted"].to_numpy()
    return {
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
    }


def words(found: dict[str, Any]) -> list[str]:
    """The results in sentences, the most important first."""
    of_edges = _words_of_edges(found) if "edges" in found else []
    return of_edges + (_words_of_curves(found["curves"]) if "curves" in found else [])


def _words_of_curves(found: dict[str, Any]) -> list[str]:
    loss = _losses(found)
    laws = {law: n for law, n in found["verdicts"].items() if law in LAWS.values()}
    others = sum(found["verdicts"].values()) - sum(laws.values())
    laws |= {"another function": others} if others else {}
    which = ", ".join(f"{count} as {law}" for law, count in laws.items())
    return [
        f"With every one of {found['heads']} curves of distance replaced by its formula, the loss "
        f"is {loss['formula']} nats per token, and {found['totals']['original']['loss']:.4f} as it "
        f"is; {loss['line']} with every curve its best line in the distance, {loss['mean']} with "
        f"its mean, {loss['start']} with what it started from. Measured on "
        f"{found['total_tokens']:,} tokens of the validation split.",
        f"R² is {1 - ACCEPTED} or above for {found['accepted']:.1%} of the curves"
        + (f": {which}." if which else ".")
        + f" With the others left as they are the loss is {loss['formula where it fits']}.",
    ]


def _losses(found: dict[str, Any]) -> dict[str, str]:
    totals = found["totals"].items()
    return {name: f"{row['loss']:.4f} ({row['added']:+.4f})" for name, row in totals}


def _words_of_edges(found: dict[str, Any]) -> list[str]:
    atlas, rank = found["atlas"], found["rank_correlations"]["std_grad"]["with_kl"]
    loss = _losses(found)
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
