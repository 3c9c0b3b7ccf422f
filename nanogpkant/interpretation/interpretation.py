"""Interpretation: the stages of looking inside one run, each computed when first needed.

observe the inputs of every layer -> fit formulas -> judge them by the model's loss; ``show`` writes
pictures, tables and the page from it.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError, check_seed, require_positive
from nanogpkant.base.files import check_is_new
from nanogpkant.base.lock import only_writer
from nanogpkant.data import check_length
from nanogpkant.interpretation.fit.atlas import Atlas, atlas
from nanogpkant.interpretation.fit.distance import CurveFits, fit_curve, start_of, with_values
from nanogpkant.interpretation.fit.families import OPTIONS, select_families
from nanogpkant.interpretation.fit.fits import Fits
from nanogpkant.interpretation.fit.formulas import fit
from nanogpkant.interpretation.judge.evaluator import Intervention, SwapEvaluator, measure
from nanogpkant.interpretation.judge.pruned_run import write_pruned_run
from nanogpkant.interpretation.judge.removal import (
    ABLATIONS,
    by_input,
    edge_ablations,
    pruned_layers,
    prunings,
    rank_correlations,
)
from nanogpkant.interpretation.judge.replacements import (
    Replaceable,
    curve_replacements,
    first_share,
    partial_replacements,
    random_ranks,
    replaced,
    total_replacements,
)
from nanogpkant.interpretation.observe.collect import Observed, collect
from nanogpkant.interpretation.observe.curves import check_memory, points, tabulate, weights
from nanogpkant.interpretation.observe.importance import ends_of_edges, importance
from nanogpkant.interpretation.observe.layers import select_layers
from nanogpkant.interpretation.store import Sizes, Stage
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.kan.curve import DistanceCurve
from nanogpkant.machine.device import resolve_device
from nanogpkant.model.projection import SITE_OF
from nanogpkant.run.checkpoint import weights_hash
from nanogpkant.run.folder import interpretation_folder, open_run
from nanogpkant.run.load import load_model, open_run_data

OBSERVED_TOKENS = 65536  # of the training split
ABLATION_SHARE = 4  # single edges are ablated on this part of the budget
TOTAL = 32  # times the budget: most tokens that totals are measured on
SHAPES = 32  # of the atlas
ROW_BYTES = 1000  # an edge in the table of edges, while it is built and sorted
SCORES, UNITS = ("std_grad", "std", "norm", "random"), ("edges", "inputs")


def sizes_of(layers: Mapping[str, KANLinear]) -> Sizes:
    return {name: (layer.in_features, layer.out_features) for name, layer in layers.items()}


class Interpretation:
    """The KAN edges of a trained run: curves, formulas, importance, and tests of all three.

    Its curves of distance, a function a head, have their own tables: ``heads``, ``curve_totals``.

        interpretation = Interpretation("quickstart_kan")
        interpretation.edges           # a row an edge: importance, formula, R²
        interpretation.faithfulness    # the loss with edges replaced
        write(interpretation)          # pictures, tables and a page in RUN/interpret

    Slow stages are kept in ``cache`` in its folder, from which another object, or the same command
    after an interruption, resumes. Edges are described on the training split and judged on the
    validation split.

    Args:
        run: a run's name or folder, pretrained:NAME, or an exported folder.
        checkpoint: "best", "last" or a step-NNNNNN.
        layers: names of KAN layers or their beginnings, such as "blocks.0"; None is all.
        families: names of the families of formulas to try; None is all.
        budget: tokens of the validation split for each point of a curve, in random windows; 0 is
            the whole split. Totals read 32 times as many, at most the whole split.
        seed: decides the windows and all other draws.
        device: auto, cpu, cuda, cuda:N or mps.
        folder: for the results; None is ``RUN/interpret``, or ``runs/NAME/interpret`` for a model
            that came with the package.

    Raises:
        UserError: no such run or checkpoint, other data than the run's, or no KAN layers.
        UsageError: an unknown layer or family, or a setting out of its range.
    """

    def __init__(
        self,
        run: Path | str,
        checkpoint: str = "best",
        layers: list[str] | None = None,
        families: list[str] | None = None,
        budget: int = 8192,
        seed: int = 1337,
        device: str = "auto",
        folder: Path | str | None = None,
    ) -> None:
        if budget < 0:
            raise UsageError(f"--budget {budget}: must be 0 (the whole split) or above")
        check_seed(seed)
        select_families(families)  # refuses unknown names
        self.families, self.budget, self.seed = families, budget, seed
        self.run = open_run(run)
        self.trained = load_model(self.run.path, checkpoint, resolve_device(device, "--device"))
        self.model = self.trained.model
        self.layers, self.curves = select_layers(self.model, layers, self.run.path)
        self.data = open_run_data(self.run, self.trained.config.data)
        for split in ("train", "val"):
            check_length(self.data.split(split), self.model.config.block_size, split)
        self.folder = Path(folder or interpretation_folder(run))
        weights = weights_hash(self.run, self.trained.step)
        self.identity = {"weights": weights, "data": self.data.fingerprint, "seed": seed}
        """determines all results, with the settings of each stage"""
        self.seconds: dict[str, float] = {}
        """spent in each stage by this object"""

    # Observe.

    @cached_property
    def observed(self) -> dict[str, Observed]:
        """Histograms of the inputs of every KAN layer, and gradients at its outputs."""
        with (
            self._stage("observed", tokens=OBSERVED_TOKENS) as stage,
            bar("recording activations", "tokens") as progress,
        ):
            text, most = self.data.train, OBSERVED_TOKENS
            find = partial(collect, self.model, text, most, self.seed, progress)
            return stage.records(Observed, "observed", find, sizes_of(kan_layers(self.model)))

    @cached_property
    def importance(self) -> dict[str, dict[str, Tensor]]:
        """Scores (m, n) of the edges of every layer: {score: {layer: ...}}."""
        observed, scores = self.observed, {}
        with self._timed("importance"), bar("scoring edges", "layers") as progress:
            for done, (name, layer) in enumerate(self.layers.items()):
                progress(done, len(self.layers))
                for score, values in importance(layer, observed[name]).items():
                    scores.setdefault(score, {})[name] = values
        return scores

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """A row for every input of every layer: see ``importance.ends_of_edges``."""
        return ends_of_edges(self.importance["std_grad"], self.observed)[0]

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """A row for every output of every layer, likewise."""
        return ends_of_edges(self.importance["std_grad"], self.observed)[1]

    # Fit.

    @cached_property
    def fits(self) -> dict[str, Fits]:
        """The formulas of every layer."""
        fitted, done = {}, 0
        total = sum(layer.in_features * layer.out_features for layer in self.layers.values())
        _ = self.observed  # before the clock starts
        with (
            self._stage("formulas", families=self.families, options=OPTIONS) as stage,
            bar("fitting formulas", "edges") as progress,
        ):
            for name, layer in self.layers.items():

                def advance(inputs: int, start: int = done, m: int = layer.out_features) -> None:
                    progress(start + m * inputs, total)

                advance(0)
                find = partial(self._fit, name, advance)
                fitted |= stage.records(Fits, name, find, sizes_of({name: layer}))
                done += layer.in_features * layer.out_features
        return fitted

    def _fit(self, name: str, progress: Callable[[int], None]) -> dict[str, Fits]:
        observed, at = self.observed[name], points(self.observed[name])
        density, curves = weights(observed, at), tabulate(self.layers[name], at)
        return {name: fit(at, density, curves, self.families, progress)}

    @cached_property
    def curve_fits(self) -> dict[str, CurveFits]:
        """The formulas of every curve of distance."""
        found = {}
        with self._stage("curves", families=self.families, options=OPTIONS) as stage:
            for name, curve in self.curves.items():
                find = partial(fit_curve, name, curve, self.families)
                both = {name: (2 * curve.out_features, 1)}  # on two scales
                fits = stage.records(Fits, name, lambda name=name, find=find: {name: find()}, both)
                found[name] = with_values(name, curve, fits[name])
        return found

    @cached_property
    def heads(self) -> pd.DataFrame:
        """A row for every head of every curve of distance: see ``CurveFits.table``."""
        tables = {name: each.table() for name, each in self.curve_fits.items()}
        return pd.concat(tables, names=["layer"]).reset_index("layer").reset_index(drop=True)

    @cached_property
    def edges(self) -> pd.DataFrame:
        """A row for every edge, the most important first: its importance, formula and fit.

        Raises:
            UserError: they do not fit into memory.
        """
        fits, scores = self.fits, self.importance
        edges = sum(each.r2.numel() for each in fits.values())
        check_memory(ROW_BYTES * edges, f"the formulas of {edges:,} edges as a table")
        with self._timed("table"):
            tables = []
            for name, of_layer in fits.items():
                own = {score: each[name].numpy().ravel() for score, each in scores.items()}
                own["importance"] = own.pop("std_grad")
                tables.append(of_layer.table().assign(layer=name, **own))
            table = pd.concat(tables, ignore_index=True)
            return table.sort_values("importance", ascending=False, ignore_index=True)

    @cached_property
    def by_layer(self) -> pd.DataFrame:
        """A row for every layer, in the model's order.

        ``importance`` is the share of the summed squares of all edges, ``outside`` the share of its
        inputs outside the grid, ``accepted`` the share of edges with a formula.
        """
        edges = self.edges.groupby("layer", sort=False)
        power = edges["importance"].agg(lambda values: values.astype("float64").pow(2).sum())
        sites = {name: [s for part, s in SITE_OF.items() if part in name] for name in self.layers}
        rows = pd.DataFrame(
            {
                "site": {name: (found or [name])[0] for name, found in sites.items()},
                "edges": edges.size(),
                "importance": power / max(power.sum(), 1e-300),
                "outside": self.inputs.groupby("layer")["outside"].mean(),
                "accepted": edges["accepted"].mean(),
            }
        )
        return rows.loc[list(self.layers)].rename_axis("layer").reset_index()

    @cached_property
    def atlas(self) -> Atlas:
        """The few shapes of all edges."""
        observed = self.observed
        with self._timed("atlas"), bar("clustering shapes", "layers") as progress:
            return atlas(self.layers, observed, SHAPES, self.seed, progress)

    # Judge.

    @cached_property
    def ablations(self) -> pd.DataFrame:
        """The effect of removing single edges: see ``removal.edge_ablations``."""
        found = edge_ablations(self.layers, self.importance, self._means)
        # One edge changes little, but all predictions: its KL needs less text than a loss.
        return self._measured("ablations", "removing single edges", found, 1 / ABLATION_SHARE)

    @property
    def rank_correlations(self) -> pd.DataFrame:
        """How well each score predicts the effect of removing an edge."""
        return rank_correlations(self.ablations, list(self.importance))

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        """The loss with edges replaced: see ``replacements.partial_replacements``."""
        importance = self.importance["std_grad"]
        orders = {
            "best fit first": {name: fits.r2 for name, fits in self.fits.items()},
            "most important first": importance,
            "random": random_ranks(importance, self.seed),
        }
        found = partial_replacements(self._with_formulas, orders)
        return self._measured("faithfulness", "replacing edges", found, families=self.families)

    @cached_property
    def totals(self) -> pd.DataFrame:
        """The loss with all edges replaced, on the whole validation split unless it is long."""
        accepted = {name: fits.accepted for name, fits in self.fits.items()}
        found = total_replacements(self._with_formulas, accepted)
        doing = "replacing all edges"
        return self._measured("totals", doing, found, TOTAL, families=self.families)

    @cached_property
    def curve_totals(self) -> pd.DataFrame:
        """The loss with curves of distance replaced: see ``replacements.curve_replacements``."""
        fits = self.curve_fits.items()
        values = {name: each.replacements(start_of(self.curves[name])) for name, each in fits}
        found = curve_replacements(values, self.model.tokens.weight.device)
        settings = {"curves": list(self.curves), "families": self.families}
        return self._measured("curves_replaced", "replacing curves", found, TOTAL, **settings)

    @cached_property
    def pruning(self) -> pd.DataFrame:
        """The loss without a share of the edges: see ``removal.prunings``."""
        importance = self.importance["std_grad"]
        scores = self.importance | {
            "random": random_ranks(importance, self.seed),
            "std_grad of inputs": by_input(importance),
        }
        return self._measured("pruning", "pruning", prunings(self.model, scores, self._means))

    @cached_property
    def atlas_score(self) -> dict[str, float]:
        """The loss when every edge is a shape of the atlas with its own gain and offset."""
        layers = {
            name: each.with_curves(shape=self.atlas.curves(name, self.observed[name]))
            for name, each in self._replaceable.items()
        }
        found = [Intervention({}, lambda: replaced(layers, "shape"), "score")]
        table = self._measured("atlas", "replacing by shapes", found, shapes=SHAPES)
        return table.to_dict("records")[0]

    def prune(
        self,
        share: float,
        out: Path | str,
        *,
        finetune: int = 0,
        score: str = "std_grad",
        ablation: str = "mean",
        unit: str = "edges",
    ) -> dict[str, Any]:
        """Write a run without a share of the edges: see ``pruned_run.write_pruned_run``.

        Args:
            share: of the edges of the selected layers together, 0 to 1.
            out: the new run folder.
            finetune: optimizer steps of fine-tuning.
            score: "std_grad", "std", "norm" or "random": the lowest go first.
            ablation: a removed edge becomes its "mean" or "zero".
            unit: "edges" one by one, or all edges of "inputs" together.

        Raises:
            UsageError: a setting out of its range, or a folder that is not empty.
        """
        check_is_new(Path(out))
        if not self.layers:
            raise UserError(f"{self.run.path} has curves of distance alone: nothing to prune")
        if not 0 < share < 1:
            raise UsageError(f"--share {share}: must be above 0 and below 1")
        if finetune < 0:
            raise UsageError(f"--finetune {finetune}: must be 0 (none) or above")
        require_positive(finetune=finetune or None)
        choices = ("score", score, SCORES), ("ablation", ablation, ABLATIONS), ("unit", unit, UNITS)
        for flag, value, known in choices:
            if value not in known:
                raise UsageError(f"--{flag} {value}: must be one of {', '.join(known)}")
        random = {"random": random_ranks(self.importance["std_grad"], self.seed)}
        left = {name: (layer.weight != 0).any(1).cpu() for name, layer in self.layers.items()}
        ranks = (self.importance | random)[score]
        ranks = {name: left[name] * rank for name, rank in ranks.items()}
        stay = (1 - share) * torch.cat([each.flatten() for each in left.values()]).float().mean()
        keep = first_share(by_input(ranks) if unit == "inputs" else ranks, stay.item())
        means = dict(self._means)
        for name, layer in kan_layers(self.model).items():
            if name not in keep and not isinstance(layer, DistanceCurve):
                keep[name] = torch.ones(layer.out_features, layer.in_features, dtype=torch.bool)
                means[name] = torch.zeros(())
        about = {"of": str(self.run.path), "step": self.trained.step, "share": share, "unit": unit}
        about |= {"score": score, "ablation": ablation}
        modules = pruned_layers(self.model, keep, means if ablation == "mean" else None)
        run, data, out = self.run, self.data, Path(out)
        with only_writer(out):
            return write_pruned_run(run, self.trained, data, modules, out, finetune, about)

    @cached_property
    def _replaceable(self) -> dict[str, Replaceable]:
        layers = self.layers.items()
        return {name: Replaceable.of(layer, self.observed[name]) for name, layer in layers}

    @cached_property
    def _with_formulas(self) -> dict[str, Replaceable]:
        known = self._replaceable.items()
        return {name: each.with_curves(formula=self.fits[name].evaluate) for name, each in known}

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        """(m, n) mean of every edge of each layer."""
        return {name: each.means() for name, each in self._replaceable.items()}

    def _measured(
        self,
        name: str,
        doing: str,
        interventions: list[Intervention],
        budgets: float = 1,
        **settings: Any,
    ) -> pd.DataFrame:
        """A row for each intervention, from the stage's folder or measured on so many budgets."""
        settings = {"budget": self.budget, "layers": list(self.layers), **settings}
        with self._stage(name, **settings) as stage, bar(doing, "batches") as progress:
            budget = int(budgets * self.budget)
            evaluator = SwapEvaluator(self.model, self.data.val, budget, self.seed)
            return pd.DataFrame(measure(evaluator, interventions, stage.result, progress))

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @contextmanager
    def _stage(self, name: str, **settings: Any) -> Iterator[Stage]:
        """The stage's folder, and a clock around it."""
        with only_writer(self.folder), self._timed(name):
            yield Stage(self.folder / "cache" / name, self.identity | settings)
