"""Looking inside any torch module that holds KAN layers, given example inputs and a loss, or none.

The stages are those of a run's ``Interpretation``; what is judged is the module's own output.
"""

import copy
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import write_atomic
from nanogpkant.interpretation.fit.distance import CurveFits, fit_curve, with_values
from nanogpkant.interpretation.fit.families import select_families
from nanogpkant.interpretation.fit.fits import Fits
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.judge.evaluator import swapped
from nanogpkant.interpretation.judge.replacements import (
    Replaceable,
    first_share,
    total_replacements,
)
from nanogpkant.interpretation.observe.collect import Call, Observed, collect_calls
from nanogpkant.interpretation.observe.curves import points, tabulate, weights
from nanogpkant.interpretation.observe.importance import importance
from nanogpkant.interpretation.observe.layers import select_layers
from nanogpkant.interpretation.show import plots
from nanogpkant.interpretation.show.cards import edge_cards
from nanogpkant.interpretation.show.distance import curve_figure
from nanogpkant.kan.pruned import prune
from nanogpkant.model.modes import evaluating
from nanogpkant.report.charts import save_figure


class ModuleInterpretation:
    """The KAN edges of a module: curves, formulas, importance, and tests of all three.

    Args:
        module: with KAN layers, of ``from_kans`` or ``kanify`` for instance; it is not changed.
        inputs: of one call: a tensor, a tuple of arguments or a dict of keywords; or a list of
            such calls. They describe the edges' ranges, and judge replacements. Curves of distance
            need none.
        loss: takes the module's output of a call and returns a scalar, the same for every call;
            with several calls it may take the number of the call too. Without one edges are ranked
            by their spread and replacements judged by the change of the output.
        layers: names of KAN layers or their beginnings; None is all.
        families: of formulas to try; None is all.

    Raises:
        UserError: no KAN layers, or values that are not finite.
        UsageError: no inputs, an unknown layer or family.
    """

    def __init__(
        self,
        module: nn.Module,
        inputs: Any,
        loss: Callable[..., Tensor] | None = None,
        layers: list[str] | None = None,
        families: Sequence[str] | None = None,
    ) -> None:
        select_families(families)  # refuses unknown names
        where = Path(type(module).__name__)
        self.layers, self.curves = select_layers(module, layers, where)
        calls = inputs if isinstance(inputs, list) else [inputs] * (inputs is not None)
        if self.layers and not calls:
            raise UsageError("inputs: a module needs examples of what it is called with")
        self.module, self.loss, self.families = module, loss, families
        self.calls = [_call(each) for each in calls]

    @cached_property
    def observed(self) -> dict[str, Observed]:
        """Histograms of the inputs of every KAN layer, and gradients at its outputs."""
        return collect_calls(self.module, self.calls, self._loss if self.loss else None)

    @cached_property
    def importance(self) -> dict[str, Tensor]:
        """(m, n) of every layer: an edge's spread, times the loss's gradient where there is one."""
        self._require_layers()
        score = "std" if self.loss is None else "std_grad"
        return {n: importance(each, self.observed[n])[score] for n, each in self.layers.items()}

    @cached_property
    def fits(self) -> dict[str, Fits]:
        """The formulas of every layer."""
        self._require_layers()
        return {name: self._fit(name) for name in self.layers}

    def _fit(self, name: str) -> Fits:
        at = points(self.observed[name])
        density, curves = weights(self.observed[name], at), tabulate(self.layers[name], at)
        return fit(at, density, curves, self.families)

    @cached_property
    def edges(self) -> pd.DataFrame:
        """A row for every edge, the most important first: its importance, formula and fit."""
        tables = [
            fits.table().assign(layer=name, importance=self.importance[name].numpy().ravel())
            for name, fits in self.fits.items()
        ]
        table = pd.concat(tables, ignore_index=True)
        return table.sort_values("importance", ascending=False, ignore_index=True, kind="stable")

    @cached_property
    def curve_fits(self) -> dict[str, CurveFits]:
        """The formulas of every curve of distance."""
        return {
            name: with_values(name, curve, fit_curve(name, curve, self.families))
            for name, curve in self.curves.items()
        }

    @cached_property
    def heads(self) -> pd.DataFrame:
        """A row for every head of every curve of distance: see ``CurveFits.table``."""
        tables = [f.table().assign(layer=name) for name, f in self.curve_fits.items()]
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()

    def formulas(self, layer: str) -> list[str]:
        """Every output of a layer as a sum of formulas of its inputs x0, x1, ...

        Raises:
            UsageError: no such layer.
        """
        self._require_layer(layer)
        count, bias = self.layers[layer].out_features, self.layers[layer].bias
        sums: list[list[str]] = [[] for _ in range(count)]
        constants = [0.0] * count if bias is None else bias.tolist()
        for row in self.fits[layer].table().to_dict("records"):
            first, _, rest = row["formula"].partition(" ")
            if _is_number(first):
                constants[row["output"]] += float(first)
            else:
                rest = f"- {row['formula'][1:]}" if first[0] == "-" else f"+ {row['formula']}"
            sums[row["output"]] += [re.sub(r"\bx\b", f"x{row['input']}", rest)] if rest else []
        texts = [
            " ".join([f"{constant:.4g}"] * (constant != 0 or not terms) + terms)
            for constant, terms in zip(constants, sums, strict=True)
        ]
        return [text.removeprefix("+ ") for text in texts]

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        """All edges replaced: by their formulas, lines, means and nothing.

        Columns ``replacement``; ``change``, the root mean square change of the output in units of
        its standard deviation; ``loss``, where there is one.
        """
        layers = {
            name: Replaceable.of(layer, self.observed[name]).with_curves(
                formula=self.fits[name].evaluate
            )
            for name, layer in self.layers.items()
        }
        accepted = {name: fits.accepted for name, fits in self.fits.items()}
        ways = total_replacements(layers, accepted)
        return pd.DataFrame([each.labels | self._judge(each.modules()) for each in ways])

    def prune(self, share: float) -> tuple[nn.Module, dict[str, float]]:
        """A copy of the module without a share of its edges, the least important ones.

        A removed edge becomes its mean.

        Returns:
            the copy, and its ``change`` and ``loss`` as in ``faithfulness``.

        Raises:
            UsageError: a share that is not above 0 and below 1.
        """
        if not 0 < share < 1:
            raise UsageError(f"share {share}: must be above 0 and below 1")
        made: dict[str, nn.Module] = {}
        for name, keep in first_share(self.importance, 1 - share).items():
            layer = self.layers[name]
            keep = keep.to(layer.weight.device)
            means = Replaceable.of(layer, self.observed[name]).means()
            made[name] = prune(layer, keep, (means * ~keep).sum(1))
        judged, pruned = self._judge(made), copy.deepcopy(self.module)
        if "" in made:  # the module is the layer
            return made[""], judged
        for name, layer in made.items():
            pruned.set_submodule(name, layer)
        return pruned, judged

    def draw(self, layer: str | None = None, top: int = 24, parts: bool = False) -> Figure:
        """A picture of the most important edges, of one layer or all, with their formulas.

        Args:
            parts: draw the base function's part and the basis' part of each curve apart, in the
                place of the formula.
        """
        self._require_layer(layer)
        rows = self.edges if layer is None else self.edges[self.edges["layer"] == layer]
        rows = rows.iloc[:top]
        form = "{title}" if layer is not None or len(self.layers) == 1 else "{title}\n{layer}"
        where = layer or "all layers"
        if parts:
            return plots.parts_sheet(self, rows, f"{where}: base and basis apart")
        cards = edge_cards(self, rows, form)
        title = f"{where}: the most important edges"
        return plots.sheet(cards, title, columns=min(6, max(4, len(cards))))

    def draw_curves(self) -> Figure:
        """A picture of the curves of distance, with their formulas."""
        return curve_figure(self.curves, self.curve_fits)

    def write(self, out: Path | str, top: int = 24) -> None:
        """Write the tables as CSV, and a picture of every layer, into a folder."""
        out = Path(out)
        if self.curves:
            write_atomic(out / "curves.csv", self.heads.to_csv(index=False))
            save_figure(self.draw_curves(), out / "curves.png", dpi=110)
        if not self.layers:
            return
        write_atomic(out / "edges.csv", self.edges.to_csv(index=False))
        write_atomic(out / "faithfulness.csv", self.faithfulness.to_csv(index=False))
        for name in self.layers:
            save_figure(self.draw(name, top), out / f"edges_{name or 'layer'}.png", dpi=110)

    def _require_layer(self, name: str | None) -> None:
        if name is not None and name not in self.layers:
            raise UsageError(f"{name}: the KAN layers are {', '.join(self.layers)}")

    def _require_layers(self) -> None:
        if not self.layers:
            remedy = "see heads and draw_curves()"
            raise UserError(f"{type(self.module).__name__} has curves of distance alone: {remedy}")

    def _loss(self, output: Any, number: int) -> Tensor:
        assert self.loss is not None
        return self.loss(output) if len(self.calls) == 1 else self.loss(output, number)

    def _outputs(self) -> list[Any]:
        with evaluating(self.module):
            return [self.module(*arguments, **keywords) for arguments, keywords in self.calls]

    @cached_property
    def _before(self) -> list[Tensor]:
        with torch.no_grad():
            return [_tensor(output) for output in self._outputs()]

    def _judge(self, modules: dict[str, nn.Module]) -> dict[str, float]:
        before = self._before  # of the whole module
        if "" in modules:
            original, self.module = self.module, modules[""]
            try:
                outputs = self._outputs()
            finally:
                self.module = original
        else:
            with swapped(self.module, modules):
                outputs = self._outputs()
        after = torch.cat([_tensor(output).flatten() for output in outputs]).detach()
        wanted = torch.cat([each.flatten() for each in before])
        spread = wanted.std().clamp(min=1e-30)
        found = {"change": ((after - wanted).square().mean().sqrt() / spread).item()}
        if self.loss is not None:
            losses = [self._loss(output, number).item() for number, output in enumerate(outputs)]
            found["loss"] = sum(losses) / len(losses)
        return found


def _call(inputs: Any) -> Call:
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _tensor(output: Any) -> Tensor:
    """The first floating-point tensor of an output."""
    if isinstance(output, Tensor):
        return output
    values = output.values() if hasattr(output, "values") else output
    found = [each for each in values if isinstance(each, Tensor) and each.is_floating_point()]
    if not found:
        raise UserError(f"the module's output, a {type(output).__name__}, holds no tensor")
    return found[0]
