"""KANRegressor and KANClassifier: a stack of KAN layers behind scikit-learn's interface."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanogpkant.base.errors import from_extra
from nanogpkant.kan import KAN, BSpline

with from_extra("interpret", "KANRegressor"):
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

    from nanogpkant.interpretation.fit.fits import signed
    from nanogpkant.interpretation.module import ModuleInterpretation

REACH = 3.0  # of the grids, in standard deviations of an input
KEPT = 2000  # rows that formulas are described on


class _Estimator(BaseEstimator):
    """Inputs and targets are standardised, and all rows fitted at once by L-BFGS in float64."""

    model_: KAN
    n_features_in_: int
    _outputs: int

    def __init__(
        self,
        hidden: Sequence[int] = (5,),
        *,
        grid_size: int = 5,
        penalty: float = 1e-5,
        max_iter: int = 100,
        families: Sequence[str] | None = None,
        random_state: Any = None,
    ) -> None:
        self.hidden, self.grid_size, self.penalty = hidden, grid_size, penalty
        self.max_iter, self.families, self.random_state = max_iter, families, random_state

    def _fit(self, X: np.ndarray, y: Tensor, loss: Any, outputs: int) -> None:
        self.mean_, self.scale_ = X.mean(0), _scale(X)
        z, basis = self._inputs(X), BSpline(self.grid_size, 3, (-REACH, REACH))
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [z.shape[1], *self.hidden, outputs]
            model = KAN(sizes, basis=basis, backend="reference", dtype=torch.float64)
        optimizer = torch.optim.LBFGS(
            model.parameters(), max_iter=self.max_iter, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            total = loss(model(z), y)
            total = total + self.penalty * sum(p.square().sum() for p in model.parameters())
            total.backward()
            return total

        optimizer.step(closure)  # pyright: ignore[reportArgumentType]
        state = optimizer.state[optimizer.param_groups[0]["params"][0]]
        self.n_iter_ = max(1, int(state["n_iter"]))
        self.model_ = model.requires_grad_(False)
        self._sample = z[:KEPT]
        self.__dict__.pop("_formulas", None)

    def _inputs(self, X: np.ndarray) -> Tensor:
        return torch.from_numpy((np.asarray(X, dtype=np.float64) - self.mean_) / self.scale_)

    def _output(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, reset=False, dtype=np.float64)
        return self.model_(self._inputs(X)).numpy()

    @property
    def interpretation_(self) -> ModuleInterpretation:
        """Curves, importance and formulas of all edges, of standardised inputs."""
        check_is_fitted(self)
        return ModuleInterpretation(self.model_, self._sample, families=self.families)

    @property
    def formulas_(self) -> list[str]:
        """The model as assignments, one a line, from inputs to outputs.

        The inputs are x0, x1, ..., or the names of a data frame's columns.
        """
        if "_formulas" not in self.__dict__:
            self._formulas = [*self._scalings(), *self._layers(self.interpretation_)]
        return self._formulas

    def _scalings(self) -> list[str]:
        names = getattr(self, "feature_names_in_", [f"x{i}" for i in range(self.n_features_in_)])
        rows = enumerate(zip(names, self.mean_, self.scale_, strict=True))
        # A mean may be large beside the spread.
        moved = [(i, f"{name}{signed(-mean, 10)}", scale) for i, (name, mean, scale) in rows]
        return [f"z{i} = ({text}) / {scale:.4g}" for i, text, scale in moved]

    def _layers(self, found: ModuleInterpretation) -> list[str]:
        lines, inputs = [], "z"
        for number in range(len(self.model_)):
            is_last, outputs = number == len(self.model_) - 1, f"h{number}_"
            for output, formula in enumerate(found.formulas(str(number))):
                formula = re.sub(r"\bx(\d+)\b", rf"{inputs}\1", formula)
                name = self._named(output) if is_last else f"{outputs}{output}"
                lines.append(f"{name} = {self._scaled(formula, output) if is_last else formula}")
            inputs = outputs
        return lines

    def _named(self, output: int) -> str:
        return f"y{output}"

    def _scaled(self, formula: str, output: int) -> str:
        return formula


class KANRegressor(RegressorMixin, _Estimator):
    """Regression by a stack of KAN layers, whose functions can be read as formulas.

    Args:
        hidden: sizes of the layers between inputs and output; () is a sum of functions of inputs.
        grid_size: intervals of the cubic splines, on three standard deviations to either side.
        penalty: factor of the summed squares of all parameters in the loss.
        max_iter: most iterations of L-BFGS.
        families: of formulas to try; None is all.
        random_state: of the initial parameters.

    Attributes:
        formulas_: the model as lines of text.
        interpretation_: its edges: curves, importance, formulas.
        model_: the ``KAN``, of standardised inputs and targets.

    Examples:
        >>> import numpy as np
        >>> from nanogpkant import KANRegressor
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> model = KANRegressor(hidden=(), random_state=0).fit(X, np.sin(2 * X[:, 0]))
        >>> bool(model.score(X, np.sin(2 * X[:, 0])) > 0.999)
        True
    """

    def fit(self, X: Any, y: Any) -> "KANRegressor":
        """Fit (rows, features) to (rows,) or (rows, targets) numbers."""
        X, y = validate_data(
            self, X, y, dtype=np.float64, y_numeric=True, multi_output=True, ensure_min_samples=2
        )
        y = np.asarray(y, dtype=np.float64)
        self._is_flat, y = y.ndim == 1, y.reshape(len(y), -1)
        self.target_mean_, self.target_scale_ = y.mean(0), _scale(y)
        target = torch.from_numpy((y - self.target_mean_) / self.target_scale_)
        self._fit(X, target, F.mse_loss, y.shape[1])
        return self

    def predict(self, X: Any) -> np.ndarray:
        """(rows, features) -> (rows,), or (rows, targets)."""
        y = self._output(X) * self.target_scale_ + self.target_mean_
        return y[:, 0] if self._is_flat else y

    def _named(self, output: int) -> str:
        return "y" if self._is_flat else f"y{output}"

    def _scaled(self, formula: str, output: int) -> str:
        scale, mean = self.target_scale_[output], self.target_mean_[output]
        return f"{mean:.10g} + {scale:.4g} * ({formula})"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class KANClassifier(ClassifierMixin, _Estimator):
    """Classification by a stack of KAN layers: arguments and attributes of ``KANRegressor``.

    Its outputs are scores, whose softmax are the probabilities.
    """

    def fit(self, X: Any, y: Any) -> "KANClassifier":
        """Fit (rows, features) to (rows,) labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, index = np.unique(y, return_inverse=True)
        self._fit(X, torch.from_numpy(index), F.cross_entropy, len(self.classes_))
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(rows, features) -> (rows, classes)."""
        return torch.from_numpy(self._output(X)).softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """(rows, features) -> (rows,) labels."""
        best = self._output(X).argmax(1)
        return self.classes_[best]

    def _named(self, output: int) -> str:
        return f"score_{self.classes_[output]}"


def _scale(values: np.ndarray) -> np.ndarray:
    """Standard deviation of every column; 1 of one without any spread."""
    spread = values.std(0)
    return np.where(spread > 1e-12 * (1 + np.abs(values.mean(0))), spread, 1.0)
