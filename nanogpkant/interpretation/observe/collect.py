"""Distribution of the inputs of every KAN layer, and gradients of the loss at its outputs.

One pass over text, in which a histogram of each of n inputs is filled; inputs are not stored.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.base.errors import UserError
from nanogpkant.data import Batches, Ids, blocks
from nanogpkant.interpretation.store import have_shapes
from nanogpkant.kan import KANLinear, kan_layers
from nanogpkant.model.gpt import GPT
from nanogpkant.model.modes import evaluating

BATCH_SIZE = 16  # windows read at a time
BINS = 512  # of a histogram: a power of two
GRADIENT_SHARE = 8  # one batch in this many also goes backward
Call = tuple[tuple[Any, ...], dict[str, Any]]
RANGE = (0.001, 0.999)  # quantiles of an input: the range on which its functions are described


@dataclass(frozen=True)
class Observed:
    """Statistics of a layer with n inputs and m outputs; tensors are on the CPU.

    Inputs are those of the functions: after ``prenorm`` where there is one.
    """

    edges: Tensor  # (n, B + 1) borders of the bins of each input's histogram
    counts: Tensor  # (n, B) inputs in each bin, float64
    mean: Tensor  # (n,)
    std: Tensor  # (n,)
    low: Tensor  # (n,) the 0.1% quantile
    high: Tensor  # (n,) the 99.9% quantile; ``low`` where the input is constant
    outside: Tensor  # (n,) share of inputs outside the grid; 0 where the basis has none
    grad_rms: Tensor
    """(m,) root mean square, over tokens, of the gradient of the summed loss at each output"""
    tokens: int  # input vectors seen

    def is_of(self, n_in: int, n_out: int) -> bool:
        """Whether it can be of a layer of these sizes."""
        names = ("mean", "std", "low", "high", "outside")
        shapes = dict.fromkeys(names, (n_in,)) | {"grad_rms": (n_out,)}
        shapes |= {"edges": (n_in, BINS + 1), "counts": (n_in, BINS)}
        return (
            have_shapes(self, shapes)
            and all(getattr(self, name).isfinite().all() for name in shapes)
            and bool((self.counts.sum(1) > 0).all() and (self.low <= self.high).all())
        )


def collect(
    model: GPT,
    tokens: Ids,
    max_tokens: int = 65536,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Observed]:
    """Observe every KAN layer while a model reads a text; the model is left as it was.

    Args:
        model: on the caller's device, under the caller's autocast; put into evaluation mode.
        tokens: (length,) token ids, more than the model's ``block_size``. A text longer than
            ``max_tokens`` is read in random windows.
        max_tokens: tokens to read, rounded up to whole batches.
        seed: decides the windows.
        progress: called with (tokens read, tokens in all).

    Returns:
        statistics of each KAN layer, by module name.

    Raises:
        UserError: a layer's inputs or gradients are not finite, or it was never called.
    """
    recorders = {name: _Recorder(name, layer) for name, layer in kan_layers(model).items()}
    device = model.tokens.weight.device
    total, done, size = min(max_tokens, len(tokens) - 1), 0, model.config.block_size
    if len(tokens) - 1 <= max_tokens:
        batches = blocks(tokens, size, BATCH_SIZE)
    else:
        drawn = Batches(tokens, size, BATCH_SIZE, seed)
        batches = map(drawn.batch, range(-(-max_tokens // (BATCH_SIZE * size))))
    with _recording(model, recorders):
        for number, (x, y) in enumerate(batches):
            backward = number % GRADIENT_SHARE == 0
            with torch.set_grad_enabled(backward):
                logits = model(x.to(device)).float().flatten(0, 1)
                if backward:
                    loss = F.cross_entropy(logits, y.to(device).flatten(), reduction="sum")
                    _record_gradients(recorders, loss)
            done += x.numel()
            progress(min(done, total), total)
    return {name: each.observed() for name, each in recorders.items()}


def collect_calls(
    module: nn.Module, calls: Iterable[Call], loss: Callable[[Any, int], Tensor] | None = None
) -> dict[str, Observed]:
    """Observe every KAN layer of any module while it is called; it is left as it was.

    Args:
        calls: arguments and keywords of each call.
        loss: of the module's output and the call's number, a scalar; None leaves ``grad_rms`` at 0.

    Raises:
        UserError: see ``collect``.
    """
    recorders = {name: _Recorder(name, layer) for name, layer in kan_layers(module).items()}
    with _recording(module, recorders), torch.set_grad_enabled(loss is not None):
        for number, (arguments, keywords) in enumerate(calls):
            output = module(*arguments, **keywords)
            if loss is not None:
                _record_gradients(recorders, loss(output, number))
    return {name: each.observed() for name, each in recorders.items()}


def _record_gradients(recorders: dict[str, "_Recorder"], loss: Tensor) -> None:
    seen = {each: each.output for each in recorders.values() if each.output is not None}
    if seen:
        gradients = torch.autograd.grad(loss, list(seen.values()), allow_unused=True)
        for each, gradient in zip(seen, gradients, strict=True):
            each.output = None  # the next call may leave this layer out
            if gradient is not None:
                each.add_gradient(gradient)


@contextmanager
def _recording(model: nn.Module, recorders: dict[str, "_Recorder"]) -> Iterator[None]:
    """Freeze the model, in evaluation mode and with hooks on its layers, within the context."""
    learned = [p for p in model.parameters() if p.requires_grad]
    handles = [w.layer.register_forward_hook(w.hook) for w in recorders.values()]
    try:
        for parameter in learned:
            parameter.requires_grad_(False)
        with evaluating(model):
            yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter in learned:
            parameter.requires_grad_(True)


class _Recorder:
    """Running sums of one layer."""

    def __init__(self, name: str, layer: KANLinear) -> None:
        self.name, self.layer = name, layer
        self.output: Tensor | None = None  # of this batch, if it goes backward
        self.histogram: _Histogram | None = None
        self.tokens = self.gradients = 0
        n, m, device = layer.in_features, layer.out_features, layer.weight.device
        self.outside = torch.zeros(n, device=device)
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.sum, self.squares = torch.zeros(2, n, dtype=wide, device=device)
        self.gradient_squares = torch.zeros(m, dtype=wide, device=device)
        # First and last grid point of the layer's functions, of each edge or shared.
        basis = layer.basis
        self.grid = getattr(getattr(basis, "family", basis), "grid_range", None)

    def hook(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor | None:
        x = self._rows(self.layer.normalise(args[0].detach()).float(), "inputs of")  # (rows, n)
        if self.histogram is None:
            self.histogram = _Histogram(x)
        self.histogram.add(x)
        self.tokens += len(x)
        self.sum += x.sum(0, dtype=self.sum.dtype)
        self.squares += x.to(self.sum.dtype).square().sum(0)
        if self.grid is not None:
            self.outside += ((x < self.grid[0]) | (x > self.grid[1])).sum(0)
        self.output = None
        if not torch.is_grad_enabled():
            return None
        # In a frozen model the graph begins at the first such output.
        self.output = output if output.requires_grad else output.requires_grad_()
        return self.output.clone()  # what follows may be in place

    def add_gradient(self, gradient: Tensor) -> None:
        """(..., m)."""
        rows = self._rows(gradient, "gradients at")
        self.gradient_squares += rows.to(self.gradient_squares.dtype).square().sum(0)
        self.gradients += len(rows)

    def _rows(self, values: Tensor, what: str) -> Tensor:
        if not values.isfinite().all():
            problem = f"the {what} {self.name} are not finite: the model has diverged"
            raise UserError(f"{problem}; use another checkpoint")
        return values.flatten(0, -2)

    def observed(self) -> Observed:
        if self.histogram is None:
            raise UserError(f"{self.name} was never called: the model does not use it")
        mean = self.sum / self.tokens
        variance = (self.squares / self.tokens - mean.square()).clamp(min=0)
        low, high = self.histogram.quantiles(RANGE)
        grad_rms = (self.gradient_squares / max(1, self.gradients)).sqrt()
        return Observed(
            edges=self.histogram.edges().cpu(),
            counts=self.histogram.counts.cpu().double(),
            mean=mean.float().cpu(),
            std=variance.sqrt().float().cpu(),
            low=low.cpu(),
            high=high.cpu(),
            outside=(self.outside / self.tokens).cpu(),
            grad_rms=grad_rms.float().cpu(),
            tokens=self.tokens,
        )


class _Histogram:
    """Histograms of n inputs; a range doubles, by merging pairs of bins, when a value is outside.

    Args:
        x: (rows, n) first values; they set the first ranges, and are not counted yet.
    """

    def __init__(self, x: Tensor) -> None:
        low, high = x.aminmax(dim=0)
        # A constant input gets a range wider than its rounding errors.
        width = (high - low).clamp(min=1e-30).maximum(1e-3 * torch.maximum(low.abs(), high.abs()))
        self.low, self.high = low, high  # of all values so far
        self.start, self.width = (low + high - width) / 2, width * (1 + 1e-6)
        self.counts = torch.zeros(x.shape[1], BINS, dtype=torch.long, device=x.device)

    def add(self, x: Tensor) -> None:
        """(rows, n)."""
        low, high = x.aminmax(dim=0)
        self.low, self.high = self.low.minimum(low), self.high.maximum(high)
        while (below := low < self.start).any():
            self._double(below, downwards=True)
        while (above := high > self.start + self.width).any():
            self._double(above, downwards=False)
        bins = ((x - self.start) / self.width * BINS).long().clamp(0, BINS - 1)
        bins += BINS * torch.arange(x.shape[1], device=x.device)
        counts = torch.bincount(bins.flatten(), minlength=self.counts.numel())
        self.counts += counts.view_as(self.counts)

    def _double(self, chosen: Tensor, downwards: bool) -> None:
        pairs = self.counts[chosen].unflatten(1, (-1, 2)).sum(2)
        empty = torch.zeros_like(pairs)
        self.counts[chosen] = torch.cat([empty, pairs] if downwards else [pairs, empty], dim=1)
        if downwards:
            self.start[chosen] -= self.width[chosen]
        self.width[chosen] *= 2

    def edges(self) -> Tensor:
        """(n, BINS + 1)."""
        steps = torch.linspace(0, 1, BINS + 1, device=self.start.device)
        return self.start[:, None] + steps * self.width[:, None]

    def quantiles(self, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
        """(n,) each, linear inside a bin and clamped to the values seen."""
        filled = self.counts.cumsum(1).float() / self.counts.sum(1, keepdim=True)
        filled, edges = F.pad(filled, (1, 0)), self.edges()
        found = []
        for share in shares:
            bins = (filled[:, 1:] < share).sum(1, keepdim=True).clamp(max=BINS - 1)
            before, after = filled.gather(1, bins), filled.gather(1, bins + 1)
            part = ((share - before) / (after - before).clamp(min=1e-30)).clamp(0, 1)
            value = edges.gather(1, bins).lerp(edges.gather(1, bins + 1), part)[:, 0]
            found.append(value.clamp(self.low, self.high))
        return tuple(found)
