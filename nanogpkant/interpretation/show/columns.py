"""Columns of the page's tables: what they say, and how their figures are rounded."""

from nanogpkant.report.section import Column

LOSS, SHARE = ".4f", ".1%"
FORMS = {
    "loss": LOSS,
    "added": "+.4f",
    "kl": ".2g",
    "r2": ".4f",
    "rms": ".2g",
    "importance": ".3g",
    "margin": ".2g",
    "share": SHARE,
    "outside": SHARE,
    "accepted": SHARE,
    "with_kl": ".2f",
    "with_loss": ".2f",
}
"""of floating-point numbers, by column"""
COLUMNS = {
    "layer": Column("layer", "The layer's name in the model: blocks count from 0."),
    "layers": Column("layers", "Whose functions are replaced: those of all, or of this one alone."),
    "site": Column("site", "What the layer is in its block, as in model.kan.sites."),
    "input": Column("input", "Number of the layer's input that the edge reads, from 0."),
    "output": Column("output", "Number of the layer's output that the edge adds to, from 0."),
    "head": Column("head", "Number of the attention head, from 0."),
    "edges": Column("edges", "How many the layer has: inputs times outputs."),
    "replacement": Column("replacement", "What stands in the functions' place."),
    "order": Column("order", "Which edges are replaced first."),
    "share": Column("share", "Of all edges that are replaced or removed."),
    "score": Column("score", "What edges are ranked by; random is the control."),
    "ablation": Column("ablation", "What a removed edge becomes: its mean, or zero."),
    "loss": Column("loss", "On the validation split, in nats per token.", "lowest"),
    "added": Column("added", "Loss above that of the model as it is, nats per token.", "lowest"),
    "kl": Column("KL", "Divergence of the predictions from the model's own, nats.", "lowest"),
    "tokens": Column("tokens", "Predictions that the loss is the mean of."),
    "importance": Column(
        "importance",
        "To first order, what the loss moves by with its spread; of a layer, its share of all.",
        "highest",
    ),
    "family": Column("family", "Kind of the formula; spline where none fits well enough."),
    "formula": Column("formula", "In x, the input; of curves in d, the distance."),
    "verdict": Column("verdict", "Which law of distance the formula is."),
    "r2": Column("R²", "Share of the curve's variance, over its inputs, that it has.", "highest"),
    "rms": Column("rms error", "Root mean square error of the formula, in scores.", "lowest"),
    "complexity": Column("complexity", "Numbers and functions in the formula.", "lowest"),
    "runner_up": Column("runner-up", "Best other family of no greater complexity."),
    "margin": Column("margin", "Lead in R² over the runner-up; inf where there is none."),
    "outside": Column("outside", "Share of the inputs that lie outside the grid."),
    "accepted": Column("accepted", "Share of the edges that a formula fits.", "highest"),
    "with_kl": Column("with KL", "Rank correlation of the score with the KL.", "highest"),
    "with_loss": Column("with loss", "Rank correlation of the score with the loss.", "highest"),
}


def column(name: str) -> Column:
    """A column of a table by its name there."""
    return COLUMNS.get(name, Column(name))
