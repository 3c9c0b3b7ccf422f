"""The interpretation of a run: stages computed on first use and cached on disk."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from nanogpkant.base.console import bar
from nanogpkant.base.errors import UsageError, UserError
from nanogpkant.base.files import read_json
from nanogpkant.config import check_seed
from nanogpkant.data import check_length
from nanogpkant.interpretation.fit.atlas import Atlas, atlas
from nanogpkant.interpretation.fit.families import select_families
from nanogpkant.interpretation.fit.formulas import Fits, fit
from nanogpkant.interpretation.judge.ablations import ablations, rank_correlations
from nanogpkant.interpretation.judge.evaluator import SwapEvaluator
from nanogpkant.interpretation.judge.faithfulness import (
    Replaceable,
    faithfulness,
    random_ranks,
    replaceable,
    totals,
)
from nanogpkant.interpretation.judge.pruned_run import check_pruning, write_pruned_run
from nanogpkant.interpretation.judge.pruning import (
    ABLATIONS,
    by_input,
    kept_edges,
    pruned_layers,
    pruning,
)
from nanogpkant.interpretation.observe.collect import Observed, collect
from nanogpkant.interpretation.observe.curves import check_memory, points, tabulate, weights
from nanogpkant.interpretation.observe.importance import ends_of_edges, importance
from nanogpkant.interpretation.observe.layers import select_layers
from nanogpkant.interpretation.store import Stage, load_records, save_records
from nanogpkant.kan import kan_layers
from nanogpkant.machine.device import resolve_device
from nanogpkant.pretrained import PREFIX
from nanogpkant.run.checkpoint import load_checkpoint
from nanogpkant.run.folder import WEIGHTS, open_run
from nanogpkant.run.load import load_model, open_run_data
from nanogpkant.run.manifest import MANIFEST

OBSERVED_TOKENS = 65536  # of the training split
ONE_EDGE = 4  # is taken out on this part of the budget
TOTAL = 32  # times the budget: tokens that totals are measured on at most
SHAPES = 32  # of the atlas
ROW_BYTES = 1000  # an edge in the table of edges, while it is made and sorted
SCORES, UNITS = ("std_grad", "std", "norm", "random"), ("edges", "inputs")


class Interpretation:
    """Formulas of the KAN edges of a trained run, and measurements of their faithfulness.

        interpretation = Interpretation("runs/quickstart_kan")
        interpretation.edges           # one row per edge: importance, formula, R²
        interpretation.faithfulness    # loss with edges replaced
        write(interpretation)    # charts, tables and a page in RUN/interpret

    Slow stages are cached in ``cache`` in its folder: a new object, or the same command after an
    interruption, resumes from there. Edges are fitted on the training split and evaluated on the
    validation split.

    Args:
        run: run folder.
        checkpoint: "best", "last" or a step-NNNNNN.
        layers: names of KAN layers, or beginnings of names such as "blocks.0"; None is all.
        families: names of the families of formulas to try; None is all.
        budget: validation tokens for each point of a curve, in random windows; 0 is the whole
            split. Totals use 32 times as many, at most the whole split.
        seed: decides the windows and everything else that is random.
        device: auto, cpu, cuda, cuda:N or mps.
        folder: for results; ``RUN/interpret`` if None, ``runs/NAME/interpret`` for pretrained:NAME.

    Raises:
        UserError: no such run or checkpoint, data that is not the run's, a run without KAN layers.
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
        select_families(families)
        self.families, self.budget, self.seed = families, budget, seed
        self.run = open_run(run)
        self.trained = load_model(self.run.path, checkpoint, resolve_device(device, "--device"))
        self.model = self.trained.model
        self.layers = select_layers(self.model, layers, self.run.path)
        self.data = open_run_data(self.run, self.trained.config.data)
        if self.data.tokenizer != self.trained.tokenizer:
            remedy = "restore the data that the run was trained on"
            raise UserError(f"{self.data.folder} has another vocabulary than {run}: {remedy}")
        for split in ("train", "val"):
            check_length(self.data.split(split), self.model.config.block_size, split)
        home = Path("runs") if str(run).startswith(PREFIX) else self.run.path.parent
        self.folder = Path(folder or home / self.run.path.name / "interpret")
        saved = load_checkpoint(self.run, f"step-{self.trained.step:06d}").folder
        sha256 = read_json(saved / MANIFEST)["sha256"]
        self.identity = {"weights": sha256[WEIGHTS], "data": self.data.fingerprint, "seed": seed}
        """of weights, data and seed; part of every cache key"""
        self.seconds: dict[str, float] = {}
        """per stage, by this object"""

    @cached_property
    def observed(self) -> dict[str, Observed]:
        """Input distribution and output gradients of every KAN layer."""
        with self._stage("observed", tokens=OBSERVED_TOKENS) as stage:
            file = stage.folder / "observed.safetensors"
            if not file.exists():
                with bar("collecting activations", "tokens") as progress:
                    found = collect(
                        self.model,
                        self.data.train,
                        max_tokens=OBSERVED_TOKENS,
                        seed=self.seed,
                        progress=progress,
                    )
                save_records(found, file)
            return load_records(Observed, file)

    @cached_property
    def importance(self) -> dict[str, dict[str, Tensor]]:
        """Scores (m, n) of the edges of every layer: {score: {layer: ...}}."""
        with self._timed("importance"):
            each = {n: importance(layer, self.observed[n]) for n, layer in self.layers.items()}
        names = next(iter(each.values()))
        return {name: {layer: each[layer][name].cpu() for layer in each} for name in names}

    @cached_property
    def fits(self) -> dict[str, Fits]:
        """The formulas of every layer."""
        fitted: dict[str, Fits] = {}
        with (
            self._stage("formulas", families=self.families) as stage,
            bar("fitting formulas", "edges") as progress,
        ):
            sizes = {n: m.in_features * m.out_features for n, m in self.layers.items()}
            total, before = sum(sizes.values()), 0
            for name, layer in self.layers.items():
                progress(before, total)
                file = stage.folder / f"{name}.safetensors"
                if not file.exists():
                    at = points(self.observed[name])
                    density = weights(self.observed[name], at)

                    def advance(done: int, _: int, before: int = before) -> None:
                        progress(before + done, total)

                    fit(at, density, tabulate(layer, at), self.families, advance).save(file)
                fitted[name] = Fits.load(file)
                before += sizes[name]
        return fitted

    @cached_property
    def edges(self) -> pd.DataFrame:
        """One row per edge, the most important first: importance, formula and fit.

        Raises:
            UserError: they do not fit into memory.
        """
        fitted = self.fits.items()
        edges = sum(fits.r2.numel() for _, fits in fitted)
        check_memory(ROW_BYTES * edges, f"the formulas of {edges:,} edges as a table")
        with self._timed("table"):
            tables = []
            for name, fits in fitted:
                table = fits.table()
                at = table["output"], table["input"]
                scores = {s: each[name].numpy()[at] for s, each in self.importance.items()}
                scores["importance"] = scores.pop("std_grad")
                tables.append(table.assign(layer=name, **scores))
            table = pd.concat(tables, ignore_index=True)
            return table.sort_values("importance", ascending=False, ignore_index=True)

    @cached_property
    def inputs(self) -> pd.DataFrame:
        """A row for every input of every layer: see ``importance.ends_of_edges``."""
        return ends_of_edges(self.importance["std_grad"], self.observed)[0]

    @cached_property
    def outputs(self) -> pd.DataFrame:
        """A row for every output of every layer, likewise."""
        return ends_of_edges(self.importance["std_grad"], self.observed)[1]

    @cached_property
    def by_layer(self) -> pd.DataFrame:
        """A row for every layer, in the model's order.

        ``importance`` is the share of the summed squares of all edges, ``outside`` how much of its
        inputs lies outside the grid, ``accepted`` the share of edges with a formula.
        """
        edges = self.edges.groupby("layer", sort=False)
        power = edges["importance"].agg(lambda values: values.astype("float64").pow(2).sum())
        rows = pd.DataFrame(
            {
                "site": {name: self.observed[name].site for name in self.layers},
                "edges": edges.size(),
                "importance": power / max(power.sum(), 1e-300),
                "outside": self.inputs.groupby("layer")["outside"].mean(),
                "accepted": edges["accepted"].mean(),
            }
        )
        return rows.loc[list(self.layers)].rename_axis("layer").reset_index()

    @cached_property
    def ablations(self) -> pd.DataFrame:
        """Effect of ablating single edges: see ``judge.ablations``."""
        with (
            self._stage("ablations", **self._judged_by) as stage,
            bar("ablating edges", "edges") as progress,
        ):
            # One edge changes little, but all predictions: its KL needs less text than a loss.
            judge = SwapEvaluator(self.model, self.data.val, self.budget // ONE_EDGE, self.seed)
            rows = ablations(
                judge, self.layers, self.importance, self._means, stage.result, progress
            )
        return pd.DataFrame(rows)

    @property
    def rank_correlations(self) -> pd.DataFrame:
        """Rank correlation of each score with the effect of ablating an edge."""
        return rank_correlations(self.ablations.to_dict("records"), list(self.importance))

    @cached_property
    def faithfulness(self) -> pd.DataFrame:
        """The loss with edges replaced, a row for each way: see ``faithfulness.faithfulness``."""
        importance = self.importance["std_grad"]
        orders = {
            "best fit first": {name: fits.r2.cpu() for name, fits in self.fits.items()},
            "most important first": importance,
            "random": random_ranks(importance, self.seed),
        }
        with (
            self._stage("faithfulness", **self._judged_by, families=self.families) as stage,
            bar("replacing edges", "trials") as progress,
        ):
            rows = faithfulness(self._judge, self._with_formulas, orders, stage.result, progress)
        return pd.DataFrame(rows)

    @cached_property
    def totals(self) -> pd.DataFrame:
        """The loss with all edges replaced, on the whole validation split unless it is long."""
        budget = TOTAL * self.budget
        accepted = {name: fits.accepted.cpu() for name, fits in self.fits.items()}
        with (
            self._stage("totals", **self._judged_by, families=self.families) as stage,
            bar("replacing all edges", "trials") as progress,
        ):
            judge = SwapEvaluator(self.model, self.data.val, budget, self.seed)
            rows = totals(judge, self._with_formulas, accepted, stage.result, progress)
        return pd.DataFrame(rows)

    @cached_property
    def pruning(self) -> pd.DataFrame:
        """The loss without a share of the edges: see ``pruning.pruning``."""
        importance = self.importance["std_grad"]
        scores = self.importance | {
            "random": random_ranks(importance, self.seed),
            "std_grad of inputs": by_input(importance),
        }
        with (
            self._stage("pruning", **self._judged_by) as stage,
            bar("pruning", "trials") as progress,
        ):
            rows = pruning(self._judge, scores, self._means, stage.result, progress)
        return pd.DataFrame(rows)

    @cached_property
    def atlas(self) -> Atlas:
        """The common shapes of the edges."""
        with self._timed("atlas"), bar("clustering shapes", "passes") as progress:
            return atlas(self.layers, self.observed, SHAPES, self.seed, progress)

    @cached_property
    def atlas_score(self) -> dict[str, float]:
        """The loss with every edge replaced by its shape, scaled and shifted per edge."""

        def find() -> dict[str, float]:
            observed = self.observed.items()
            curves = {n: self.atlas.curves(n, seen) for n, seen in observed if n in self.layers}
            made = {n: r.with_curves(shape=curves[n]) for n, r in self._replaceable.items()}
            return self._judge.row({n: r.replaced("shape") for n, r in made.items()})

        with self._stage("atlas", **self._judged_by, shapes=SHAPES) as stage:
            return stage.result("score", find)

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
            share: of the edges of the chosen layers together, 0 to 1.
            out: the new run folder.
            finetune: optimiser steps to train on for.
            score: "std_grad", "std", "norm" or "random": the lowest go first.
            ablation: what takes the place of an edge, its "mean" or "zero".
            unit: "edges" one by one, or all edges of "inputs" together.

        Raises:
            UsageError: a setting out of its range, or a folder that exists.
        """
        check_pruning(share, out, finetune)
        choices = {"score": SCORES, "ablation": ABLATIONS, "unit": UNITS}
        for (flag, known), value in zip(choices.items(), (score, ablation, unit), strict=True):
            if value not in known:
                raise UsageError(f"--{flag} {value}: must be one of {', '.join(known)}")
        random = {"random": random_ranks(self.importance["std_grad"], self.seed)}
        ranks = (self.importance | random)[score]
        keep = kept_edges(by_input(ranks) if unit == "inputs" else ranks, share)
        means = dict(self._means)
        for name, layer in kan_layers(self.model).items():
            if name not in keep:
                keep[name] = torch.ones(layer.out_features, layer.in_features, dtype=torch.bool)
                means[name] = torch.zeros(())
        about = {"of": str(self.run.path), "step": self.trained.step, "share": share, "unit": unit}
        about |= {"score": score, "ablation": ablation}
        modules = pruned_layers(self.model, keep, means if ablation == "mean" else None)
        return write_pruned_run(
            self.run, self.trained, self.data, modules, Path(out), finetune, about
        )

    @cached_property
    def _judge(self) -> SwapEvaluator:
        """For the points of curves."""
        return SwapEvaluator(self.model, self.data.val, self.budget, self.seed)

    @property
    def _judged_by(self) -> dict[str, Any]:
        """The settings that every loss depends on."""
        return {"budget": self.budget, "layers": list(self.layers)}

    @cached_property
    def _replaceable(self) -> dict[str, Replaceable]:
        """The layers, each with its controls."""
        layers = self.layers.items()
        return {name: replaceable(layer, self.observed[name]) for name, layer in layers}

    @cached_property
    def _with_formulas(self) -> dict[str, Replaceable]:
        made = self._replaceable.items()
        return {name: each.with_curves(formula=self.fits[name].evaluate) for name, each in made}

    @cached_property
    def _means(self) -> dict[str, Tensor]:
        """(m, n) the mean of every edge of each layer."""
        return {name: each.means() for name, each in self._replaceable.items()}

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
        with self._timed(name):
            yield Stage(self.folder / "cache" / name, self.identity | settings)
