"""The recompute backend equals the reference, for every chunk size and kind of step."""

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from cases import ATOMS, FEW, FIXED, GROUPED, UNEVEN, c_compiles
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpkant.kan import RBF, BSpline, Chebyshev, Features, Shared
from nanogpkant.kan.backends import native, recompute
from nanogpkant.kan.backends.reference import Call

IN_C = [
    FIXED,
    Features(BSpline(4, 2, outside="linear"), "none"),
    GROUPED,
    Features(Shared(Chebyshev(4), functions=3), "gelu"),
]
torch_compiles = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
steps = pytest.mark.parametrize("kind", ["eager", pytest.param("native", marks=c_compiles)])


def assert_close(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare with a tolerance relative to the largest value of each tensor."""
    for result, wanted in zip(results, expected, strict=True):
        near = tolerance * wanted.abs().max().item() if wanted.numel() else 0.0
        torch.testing.assert_close(result, wanted.to(result.dtype), rtol=0, atol=near)


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("keep", [False, True], ids=["whole", "dropped"])
@pytest.mark.parametrize("rows", [1, 3, 7, 100])
def test_ragged_chunks(features, problem, chunks_of, rows: int, keep: bool) -> None:
    chunks_of(rows)
    case = problem(features, keep=keep)
    assert_close(case.run("recompute"), case.run("reference"), 1e-12)


@c_compiles
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("keep", [False, True], ids=["whole", "dropped"])
@pytest.mark.parametrize("features", IN_C, ids=repr)
def test_compiled_c_in_ragged_chunks(features, problem, chunks_of, keep: bool) -> None:
    chunks_of(3, "native")
    case = problem(features, dtype=torch.float32, keep=keep)
    case.x.data = case.x.data.T.contiguous().T  # C needs contiguous rows
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), 1e-5)


@torch_compiles
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("features", [UNEVEN, ATOMS], ids=repr)
def test_compiled_loops_in_ragged_chunks(features, problem, chunks_of) -> None:
    chunks_of(4, "compiled")
    case = problem(features, (10,), dtype=torch.float32, keep=True)
    torch.compiler.reset()
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), 1e-5)
    steps = recompute._steps(case.x, features, torch.float32)
    assert (steps.rows, steps.expand.compiled is None) == (4, False)  # they were compiled


def test_the_terms_of_learned_functions_decide_what_is_compiled() -> None:
    """A batch that is compiled is one chunk, so that the code is used."""
    rows = recompute.WORTH_COMPILING_TORCH // 8 // 16
    for family, is_compiled in ((RBF(3), False), (RBF(9), True)):  # 4 and 10 terms
        features = Features(Shared(family, groups=4), "gelu")
        steps = recompute._steps(torch.zeros(rows, 16), features, torch.float32)
        assert isinstance(steps.expand, recompute._Compiled) == is_compiled
        assert steps.rows == rows if is_compiled else steps.rows >= rows
    longer = recompute._steps(torch.zeros(rows + 5, 16), features, torch.float32)
    assert longer is steps  # nearby batches share the code


@steps
def test_chunks_are_summed_in_float32(problem, chunks_of, kind: str) -> None:
    chunks_of(1, kind)
    case = problem(GROUPED, (400,), dtype=torch.bfloat16)
    for leaf, value in [(case.x, 1.0), (case.weight, 1.0), (case.upstream, 1.0)]:
        leaf.data.fill_(value)
    exact = case.map(Tensor.double).run("reference")
    # A sum of ones in bfloat16 would stop at 256.
    assert_close(case.run("recompute")[2:4], exact[2:4], 0.01)


class Sizes(TorchDispatchMode):
    """Records the size of every result of an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if torch.is_tensor(tensor):
                self.sizes.add(tensor.numel())
        return result


@steps
@pytest.mark.parametrize("features", [FIXED, GROUPED], ids=repr)
def test_memory_does_not_grow_with_the_batch(features, problem, chunks_of, kind: str) -> None:
    chunks_of(10, kind)

    def sizes(rows: int) -> set[int]:
        case = problem(features, (rows,), dtype=torch.float32, keep=True)
        x, weight = case.x.detach(), case.weight.detach()
        call = Call(x, weight, features, case.coefficients, case.keep, torch.float32)
        with torch.no_grad(), Sizes() as made:
            recompute.forward(call)
            recompute.backward(case.upstream, call, True, True)
        return made.sizes - {rows * 3, rows * 4}  # except x, y and their gradients

    assert sizes(300) == sizes(50)


def saved_tensors(function: Callable[[], Tensor]) -> list[Tensor]:
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        function()
    return saved


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
def test_only_what_it_was_given_is_saved(features, problem, autocast: bool) -> None:
    case = problem(features, (50,), dtype=torch.float32, keep=True)
    given = [case.x, case.weight, case.keep, case.coefficients]
    pointers = {tensor.data_ptr() for tensor in given if tensor is not None}
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        saved = saved_tensors(lambda: case.forward("recompute"))
        assert {t.data_ptr() for t in saved} == pointers
        assert {t.data_ptr() for t in saved_tensors(lambda: case.forward("auto"))} == pointers
        # The reference saves every feature.
        saved = saved_tensors(lambda: case.forward("reference"))
    assert max(t.numel() for t in saved) >= case.x.numel() * features.size


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("rows", [8, 41])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
    ids=str,
)
def test_a_weight_larger_than_the_cache(problem, rows: int, dtype, tolerance: float) -> None:
    """In float32 and bfloat16, C then takes a part of the inputs at a time."""
    case = problem(FIXED, shape=(rows,), n=1000, out=500, dtype=dtype, keep=True)
    assert case.weight.numel() > recompute.CACHED_WEIGHT
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), tolerance)


@pytest.mark.parametrize("rows", [0, 1, 500, 1200])
@pytest.mark.parametrize("features", FEW, ids=repr)
def test_batches_of_every_size(features, problem, rows: int) -> None:
    """Eager for few rows, compiled for many; one chunk and several."""
    case = problem(features, (rows,), n=60, out=5, dtype=torch.float32, keep=True)
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), 1e-4)


@pytest.mark.usefixtures("forgetful", "nan_buffers")
def test_goes_on_without_a_torch_compile_that_fails(
    problem, chunks_of, logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def compile(step: Callable, **_: object) -> Callable:
        def broken(*arguments: object) -> None:
            calls.append(step)
            raise RuntimeError("there is no compiler today")

        return broken

    monkeypatch.setattr(torch, "compile", compile)
    chunks_of(4, "compiled")
    case = problem(FIXED, (19,), keep=True)
    assert_close(case.run("recompute"), case.run("reference"), 1e-12)
    assert len(calls) == 2  # once per step, though there are four whole chunks
    assert logged().count("without torch.compile: there is no compiler today") == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_kinds_of_steps_agree_on_rounded_inputs(problem, chunks_of, dtype) -> None:
    """float16, which C cannot read, runs in torch."""
    case = problem(FIXED, (300,), n=40, dtype=dtype)
    assert case.x.numel() * 9 >= native.WORTH_COMPILING
    results = case.run("recompute")
    chunks_of(100, "eager")
    assert_close(results, case.run("recompute"), 1e-5 if dtype == torch.float32 else 0.01)
