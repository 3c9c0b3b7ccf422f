"""Compiled C against torch: every order, base, block size and special value."""

import errno
import math
import re
import shutil
import tempfile
from itertools import cycle
from pathlib import Path

import pytest
import torch
from cases import SPLINES, c_compiles
from torch import Tensor

from nanogpkant.kan import (
    BASE_FUNCTIONS,
    RBF,
    BSpline,
    Chebyshev,
    Features,
    Fourier,
    Rational,
    Shared,
)
from nanogpkant.kan.backends import native
from nanogpkant.kan.bases import load_basis
from nanogpkant.kan.bases.line import Line

SHARED = [
    *(Shared(Rational(degree), groups=2) for degree in (1, 2, 5)),
    *(Shared(Chebyshev(degree), functions=3, groups=2) for degree in (1, 2, 6)),
    *(Shared(Fourier(frequencies), groups=2) for frequencies in (1, 2)),
    Shared(Fourier(5), functions=2),
    Shared(Rational(3), functions=4),
    *(Shared(BSpline(4, order, (-1.5, 1.0)), groups=2) for order in (1, 3)),
    Shared(BSpline(2, 1, outside="linear"), functions=3, groups=2),
    Shared(BSpline(5, 2, outside="linear"), functions=2),
    Shared(Line(), groups=2),
    Shared(Line(), functions=3),
]
# Every basis with some base, and every base with a basis of either C file.
ALL = [
    *(Features(basis, base) for basis, base in zip(SPLINES + SHARED, cycle(BASE_FUNCTIONS))),
    *(Features(basis, base) for basis in (BSpline(), SHARED[-1]) for base in BASE_FUNCTIONS),
    *(Features(BSpline(4, 1, outside=outside), "none") for outside in ("zero", "linear")),
]
BLOCKS = [BSpline(), *(Shared(family, functions=2) for family in (Rational(), BSpline(4, 1)))]
TYPES = [torch.float32, torch.bfloat16]
# Even, for groups of two, around the tails of vectors.
WIDTHS = (2, 110, 112, 114, 226, 600)


def numbers_of(features: Features) -> Tensor | None:
    if not features.is_learned:
        return None
    start = features.start()
    return start + 0.1 * torch.randn_like(start)


def run(
    features: Features, x: Tensor, numbers: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features and gradients in buffers that held NaN."""
    out = torch.full_like(grad, torch.nan)
    native.expand(features, out, x, numbers, None)
    ways = []
    for expands in (False, True):
        grad_x, room = torch.full_like(x, torch.nan), grad.clone()
        by_numbers = native.pull_back(features, room, x, numbers, None, grad_x, expands)
        ways.append((grad_x, by_numbers, room if expands else out))
    ulp = torch.finfo(grad.dtype).eps  # the compiler may fuse products and sums differently
    for alone, with_features in zip(*ways, strict=True):
        torch.testing.assert_close(alone, with_features, rtol=2 * ulp, atol=ulp, equal_nan=True)
    return out, *ways[0][:2]


def expected(
    features: Features, x: Tensor, numbers: Tensor | None, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The same by torch in float64."""
    x, grad = x.double(), grad.double()
    numbers = None if numbers is None else numbers.double()
    return features.expand(x, numbers), *features.pull_back(grad, x, numbers)


def assert_close(results: tuple, wanted: tuple, tolerance: float) -> None:
    for result, value in zip(results, wanted, strict=True):
        assert (result is None) == (value is None)
        if value is not None:
            scale = max(1.0, value.abs().max().item())
            torch.testing.assert_close(result.double(), value, rtol=0, atol=tolerance * scale)


@c_compiles
@pytest.mark.parametrize("features", ALL, ids=repr)
def test_every_kind_of_features_is_torchs(features: Features) -> None:
    for rows, n in [(3, 10), (1, 114)]:
        x, numbers = 2 * torch.randn(rows, n), numbers_of(features)
        grad = torch.randn(rows, features.size, n)
        case = (features, x, numbers, grad)
        assert_close(run(*case), expected(*case), 3e-5)


@c_compiles
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("n", [*WIDTHS, 1, 111, 113, 255, 256, 257])
@pytest.mark.parametrize("basis", BLOCKS, ids=repr)
def test_blocks_of_inputs(basis: BSpline | Shared, n: int, rows: int) -> None:
    features = Features(basis)
    x, numbers = 2 * torch.randn(rows, n), numbers_of(features)
    case = (features, x, numbers, torch.randn(rows, features.size, n))
    assert_close(run(*case), expected(*case), 3e-5)


@c_compiles
def test_no_rows() -> None:
    features = Features(Shared(Rational(), groups=2))
    case = (features, torch.zeros(0, 4), numbers_of(features), torch.zeros(0, 1, 4))
    assert torch.equal(run(*case)[2], torch.zeros(1, 2, 10))


@c_compiles
@pytest.mark.parametrize("inputs", TYPES, ids=str)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("basis", [BSpline(), BSpline(outside="linear"), SHARED[-1]], ids=repr)
def test_bfloat16_is_rounded_once(
    basis: BSpline | Shared, dtype: torch.dtype, inputs: torch.dtype
) -> None:
    features = Features(basis, "gelu")
    x, numbers = (2 * torch.randn(7, 130)).to(inputs), numbers_of(features)
    grad = torch.randn(7, features.size, 130).to(dtype)
    in_float32 = run(features, x.float(), numbers, grad.float())
    out, grad_x, grad_numbers = run(features, x, numbers, grad)
    assert (out.dtype, grad_x.dtype) == (dtype, inputs)
    assert torch.equal(out, in_float32[0].to(dtype))  # to nearest, ties to even, as torch does
    assert torch.equal(grad_x, in_float32[1].to(inputs))
    if numbers is not None:
        torch.testing.assert_close(grad_numbers, in_float32[2])


@c_compiles
@pytest.mark.parametrize("n", [7, 112])  # one by one, and vectorised
def test_bfloat16_is_rounded_to_nearest_and_ties_to_even(n: int) -> None:
    features = Features(BSpline(), "identity")
    x = 1 + torch.arange(n)[None] / 256  # half of them are ties
    x[0, -1:] = torch.tensor([2**31 - 1], dtype=torch.int32).view(torch.float32)
    out = torch.empty(1, features.size, n, dtype=torch.bfloat16)
    native.expand(features, out, x, None, None)
    torch.testing.assert_close(out[:, 0], x.bfloat16(), rtol=0, atol=0, equal_nan=True)
    assert out[0, 0, -1].isnan()  # with any payload


@c_compiles
@pytest.mark.parametrize("outside", ["zero", "linear"])
@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_at_knots(order: int, outside: str) -> None:
    """Knots that are exact in float32. At a corner the slope is from the right, as in torch."""
    features = Features(BSpline(4, order, outside=outside), "none")
    x = torch.tensor([features.basis.knots])
    case = (features, x, None, torch.randn(1, features.size, x.shape[1]))
    assert_close(run(*case), expected(*case), 1e-6)


@c_compiles
@pytest.mark.parametrize("features", ALL, ids=repr)
def test_huge_inputs(features: Features) -> None:
    x = torch.tensor([[2e30, -2e30], [3e4, -3e4]])
    case = (features, x, numbers_of(features), torch.rand(2, features.size, 2))
    results, wanted = run(*case)[:2], expected(*case)[:2]
    waves = isinstance(getattr(features.basis, "family", None), Fourier)
    if features.base.endswith("2"):  # a square
        pytest.skip("the square of 2e30 is beyond float32")
    for result, value in zip(results, wanted, strict=True):
        assert result.isfinite().all()
        if waves:  # the phase of 2e30 is rounding error
            result, value = result[1], value[1]
        torch.testing.assert_close(result.double(), value, rtol=1e-4, atol=1e-4)


@c_compiles
@pytest.mark.parametrize("features", ALL, ids=repr)
def test_nan_and_infinities_come_out_where_they_go_in(features: Features) -> None:
    x = torch.randn(3, 130)
    numbers, grad = numbers_of(features), torch.randn(3, features.size, 130)
    clean = run(features, x, numbers, grad)
    x[0, 5], x[2, 120], x[1, 7], x[1, 128] = math.nan, math.nan, math.inf, -math.inf
    out, grad_x, _ = run(features, x, numbers, grad)
    assert out[[0, 2], :, [5, 120]].isnan().any(-1).all()
    if not isinstance(getattr(features.basis, "family", None), Line):  # the same slope everywhere
        assert grad_x[[0, 2], [5, 120]].isnan().all()
    ordinary = x.isfinite()
    assert torch.equal(grad_x[ordinary], clean[1][ordinary])
    assert torch.equal(out.mT[ordinary], clean[0].mT[ordinary])
    if features.base == "none" and getattr(features.basis, "outside", "") == "zero":
        assert (out[1, :, [7, 128]] == 0).all()
        assert (grad_x[1, [7, 128]] == 0).all()


@pytest.mark.parametrize(
    ("basis", "inputs", "dtype", "reason"),
    [
        (BSpline(), torch.float64, torch.float64, "not torch.float64"),
        (BSpline(), torch.float16, torch.float16, "not torch.float16"),
        (BSpline(), torch.float32, torch.float16, "not torch.float32 to torch.float16"),
        (BSpline(grid=(0.0, 1.0, 3.0)), torch.float32, torch.float32, "uniform grids"),
        (Shared(RBF(), groups=2), torch.float32, torch.float32, "or shared polynomials and waves"),
        *(
            (load_basis(kind)(), torch.float32, torch.float32, "only")
            for kind in ("rbf", "fourier")
        ),
        (Shared(RBF()), torch.float32, torch.float32, "only"),
        (Chebyshev(), torch.float32, torch.float32, "only"),
    ],
    ids=str,
)
def test_says_what_is_unsupported(basis, inputs, dtype, reason: str) -> None:
    assert reason in native.unsupported(Features(basis), inputs, dtype)


@pytest.mark.usefixtures("forgetful")
@pytest.mark.parametrize(
    ("compiler", "said"),
    [
        ('gcc "', r"no C compiler \(cc, gcc or clang\) for bspline.c"),
        ("", r"no C compiler \(cc, gcc or clang\) for bspline.c"),
        ("/nonexistent/cc", "/nonexistent/cc does not compile bspline.c: .*No such file"),
        ("false", "false does not compile bspline.c: .*non-zero exit status"),
    ],
)
def test_goes_on_without_a_compiler(
    problem, chunks_of, logged, monkeypatch: pytest.MonkeyPatch, compiler: str, said: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    if not compiler:
        monkeypatch.setenv("PATH", "")
    features = Features(BSpline())
    case = problem(features, (300,), n=40, dtype=torch.float32, keep=True)
    assert case.x.numel() * features.size >= native.WORTH_COMPILING
    results = case.run("recompute")
    chunks_of(1000, "eager")
    for result, wanted in zip(results, case.run("recompute"), strict=True):
        torch.testing.assert_close(result, wanted)
    assert len(re.findall(said, logged())) == 1


@pytest.mark.usefixtures("forgetful")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
@pytest.mark.parametrize("damage", [b"", b"not a library"])
def test_a_kept_library_is_loaded_and_a_damaged_one_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: bytes
) -> None:
    def kept(cache: Path) -> Path:
        monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
        native.compiled.cache_clear()
        native._library.cache_clear()
        assert native.unsupported(Features(BSpline()), torch.float32, torch.float32) is None
        (library,) = (cache / "nanogpkant").iterdir()
        return library

    first = kept(tmp_path)
    assert first.parent.stat().st_mode & 0o77 == 0
    written = first.stat().st_mtime_ns
    assert kept(tmp_path).stat().st_mtime_ns == written
    # Elsewhere, since a process takes a library of the same path for the one that it has loaded.
    other = tmp_path / "other" / "nanogpkant" / first.name
    other.parent.mkdir(parents=True)
    other.write_bytes(damage)
    assert kept(tmp_path / "other").stat().st_size > 1000


@pytest.mark.usefixtures("forgetful")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_compiles_where_nothing_can_be_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert native.unsupported(Features(BSpline()), torch.float32, torch.float32) is None


@pytest.mark.usefixtures("forgetful")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_compiles_where_the_cache_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(suffix: str, prefix: str, folder: Path, **options: bool) -> object:
        if Path(folder).is_relative_to(tmp_path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return temporary(suffix, prefix, folder, **options)

    temporary = tempfile.TemporaryDirectory
    monkeypatch.setattr(tempfile, "TemporaryDirectory", full)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert native.unsupported(Features(BSpline()), torch.float32, torch.float32) is None
    assert list((tmp_path / "nanogpkant").iterdir()) == []


@pytest.mark.usefixtures("forgetful")
@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_the_compiler_may_have_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "gcc -O2")
    assert native.unsupported(Features(BSpline()), torch.float32, torch.float32) is None
