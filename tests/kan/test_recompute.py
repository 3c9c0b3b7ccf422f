"""The recompute backend: chunk by chunk, by every kind of step, the result is the reference's."""

import os
import shutil
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nanogpkant.kan import RBF, BSpline, Chebyshev, Features, Rational, Shared
from nanogpkant.kan.backends import native, recompute

FIXED = Features(BSpline())
GROUPED, ATOMS = Features(Shared(Rational(), groups=3)), Features(Shared(RBF(3), functions=2))
UNEVEN = Features(BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)))
IN_C = [
    FIXED,
    Features(BSpline(4, 2, outside="linear"), "none"),
    GROUPED,
    Features(Shared(Chebyshev(4), functions=3), "gelu"),
]
c_compiles = pytest.mark.skipif(
    native.unsupported(FIXED, torch.float32, torch.float32) is not None,
    reason="needs a C compiler and OpenMP",
)
torch_compiles = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
steps = pytest.mark.parametrize("kind", ["eager", pytest.param("native", marks=c_compiles)])


def assert_close(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Every tensor as near as that share of its largest value."""
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
    case.x.data = case.x.data.T.contiguous().T  # C reads rows
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
    assert (steps.rows, steps.expand.compiled is None) == (4, False)  # they did compile


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
    """Records how many numbers every tensor has that an operation makes."""

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
        tensors = (case.x.detach(), case.weight.detach(), features)
        rest = (case.coefficients, case.keep, torch.float32)
        with torch.no_grad(), Sizes() as made:
            recompute.forward(*tensors, *rest)
            recompute.backward(case.upstream, *tensors, *rest, True, True)
        return made.sizes - {rows * 3, rows * 4}  # but for x, y and their gradients

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
        # The reference, on the other hand, keeps every feature.
        saved = saved_tensors(lambda: case.forward("reference"))
    assert max(t.numel() for t in saved) >= case.x.numel() * features.size


def test_tiles_cover_every_row_once() -> None:
    x = torch.zeros(11, 4)
    features = Features(BSpline(3, 2), "none")  # 5 features
    for rows, lengths in [(3, [3, 3, 3, 2]), (11, [11]), (1, [1] * 11)]:
        tiling = recompute.Tiling(rows, [slice(0, 4)])
        tiles = list(recompute._tiles(x, None, features, tiling, torch.bfloat16))
        assert [len(tile.x) for tile in tiles] == lengths
        assert [tuple(tile.room.shape) for tile in tiles] == [(n, 5, 4) for n in lengths]
        assert {(tile.room.data_ptr(), tile.room.dtype) for tile in tiles} == {
            (tiles[0].room.data_ptr(), torch.bfloat16)  # the same room for all
        }
        covered = torch.cat([torch.arange(11)[tile.rows] for tile in tiles])
        assert torch.equal(covered, torch.arange(11))
    assert not list(recompute._tiles(x[:0], None, features, tiling, torch.float32))


def test_tiles_of_some_inputs_cover_all_of_them_once() -> None:
    x, keep = torch.arange(44.0).view(11, 4), torch.randn(11, 4)
    tiling = recompute.Tiling(5, [slice(0, 3), slice(3, 4)])
    seen, kept = torch.zeros(2, 11, 4)
    for tile in recompute._tiles(x, keep, FIXED, tiling, torch.float32):
        inputs = tiling.inputs[tile.number]
        assert tile.room.is_contiguous() and tile.room.shape == (len(tile.x), 9, tile.x.shape[1])
        seen[tile.rows, inputs] += tile.x + 1
        kept[tile.rows, inputs] += tile.keep
    assert torch.equal(seen, x + 1)
    assert torch.equal(kept, keep)


def test_only_a_weight_beyond_the_cache_is_cut_by_its_inputs() -> None:
    steps = recompute._native_steps(FIXED, 768)
    x = torch.zeros(4096, 768)

    def tiling(out: int, steps: recompute.Steps = steps, features: Features = FIXED, rows=4096):
        weight = torch.empty(out, features.size, 768, device="meta")
        return recompute._tiling(x[:rows], weight, features, steps)

    assert tiling(192) == recompute.Tiling(steps.rows, [slice(0, 768)])
    inputs = [slice(0, 224), slice(224, 448), slice(448, 672), slice(672, 768)]
    assert tiling(3072) == recompute.Tiling(2048, inputs)
    assert tiling(3072, rows=7).rows == 7
    assert len(tiling(3072, recompute._eager_steps(FIXED, 768)).inputs) == 1
    assert len(tiling(3072, steps, ATOMS).inputs) == 1


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("features", [FIXED, UNEVEN, Features(RBF(), "none")], ids=repr)
@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
    ids=str,
)
def test_a_wide_layer_in_tiles(
    problem, monkeypatch, features, rows: int, dtype: torch.dtype, tolerance: float
) -> None:
    """3 groups of inputs, beside each other in chunks of 4 rows, with inputs dropped."""
    for name, value in {"CACHED_WEIGHT": 0, "ROWS_OF_WIDE": 4, "CHUNK_FEATURES": 1}.items():
        monkeypatch.setattr(recompute, name, value)
    steps = recompute._eager_steps(features, 70)._replace(rows=1, takes_any_inputs=True)
    monkeypatch.setattr(recompute, "_steps", lambda *_: steps)
    case = problem(features, shape=(rows,), n=70, out=5, keep=True).map(lambda t: t.to(dtype))
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), tolerance)


@c_compiles
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("features", IN_C, ids=repr)
def test_compiled_c_in_tiles(problem, monkeypatch, features) -> None:
    for name, value in {"CACHED_WEIGHT": 0, "ROWS_OF_WIDE": 64, "CHUNK_FEATURES": 2**14}.items():
        monkeypatch.setattr(recompute, name, value)
    monkeypatch.setattr(recompute, "_steps", lambda *_: recompute._native_steps(features, 300))
    case = problem(features, shape=(100,), n=300, out=5, dtype=torch.float32, keep=True)
    recompute._native_steps.cache_clear()
    assert_close(case.run("recompute"), case.map(Tensor.double).run("reference"), 1e-5)
    recompute._native_steps.cache_clear()


def test_rows_of_a_chunk() -> None:
    assert recompute._rows(100, FIXED, 3) == 100 // (9 * 3)
    assert recompute._rows(5, FIXED, 3) == 1  # a row too large for a chunk is one
    assert recompute._eager_steps(FIXED, 1000).rows == 2**19 // 9000
    assert recompute._native_steps(FIXED, 1000).rows == 2**22 // 9000
    assert recompute._compiled_steps(FIXED, 1000, 2**19).rows == 32  # a power of two below 58
    assert recompute._compiled_steps(FIXED, 1000, 5).rows == 1


@pytest.mark.parametrize("has_c", [True, False])
def test_only_large_work_is_compiled(monkeypatch: pytest.MonkeyPatch, has_c: bool) -> None:
    monkeypatch.setattr(native, "unsupported", lambda *_: None if has_c else "no compiler")
    monkeypatch.setattr(recompute, "WORTH_COMPILING", {"c": 9 * 40, "torch": 9 * 60})
    eager, c = recompute._eager_steps(FIXED, 10), recompute._native_steps(FIXED, 10)
    loops = recompute._compiled_steps(FIXED, 10, recompute.CHUNK_FEATURES_EAGER)
    expected = [eager, c, c, c] if has_c else [eager, eager, eager, loops]
    for rows, steps in zip((3, 4, 5, 6), expected, strict=True):
        assert recompute._steps(torch.zeros(rows, 10), FIXED, torch.float32) is steps
    elsewhere = recompute._steps(torch.zeros(1, 10, device="meta"), FIXED, torch.float32)
    assert elsewhere is recompute._compiled_steps(FIXED, 10, recompute.CHUNK_FEATURES_GPU)


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
    assert len(calls) == 2  # once for either step, though there are four whole chunks
    assert logged().count("without torch.compile: there is no compiler today") == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_kinds_of_steps_agree_on_rounded_inputs(problem, chunks_of, dtype) -> None:
    """What C cannot read, such as float16, is left to the others."""
    case = problem(FIXED, (300,), n=40, dtype=dtype)
    assert case.x.numel() * 9 >= recompute.WORTH_COMPILING["c"]
    results = case.run("recompute")
    chunks_of(100, "eager")
    assert_close(results, case.run("recompute"), 1e-5 if dtype == torch.float32 else 0.01)
