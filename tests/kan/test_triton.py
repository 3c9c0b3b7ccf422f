"""The triton backend against the reference, on a GPU or else in triton's interpreter.

triton decides at import whether to interpret kernels, and would then do so in all other tests. So
without a GPU, test_under_the_interpreter runs this file in a child process.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from cases import SPLINES
from torch import Tensor

from nanogpkant.kan import BASE_FUNCTIONS, BSpline, Features
from nanogpkant.kan.backends import triton as backend
from nanogpkant.kan.backends.reference import Call

pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CANNOT_RUN = backend.unsupported(torch.device(DEVICE), Features(BSpline()), torch.float32)
kernels = pytest.mark.skipif(CANNOT_RUN is not None, reason="see test_under_the_interpreter")

CUBIC = BSpline()
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.skipif(CANNOT_RUN is None, reason="the tests below run in this process")
def test_under_the_interpreter() -> None:
    others = "not (without_triton or compiles)"  # these need no interpreter
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", others, __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@dataclasses.dataclass
class Problem:
    """Arguments of the backend."""

    features: Features
    x: Tensor  # (rows, n)
    weight: Tensor  # (out, M, n)
    upstream: Tensor  # (rows, out)
    keep: Tensor | None = None  # (rows, n)
    dtype: torch.dtype = torch.float32

    def run(self, needs_x: bool = True, needs_weight: bool = True) -> list[Tensor | None]:
        """y and the gradients of x and weight."""
        call = Call(self.x, self.weight, self.features, None, self.keep, self.dtype)
        y = backend.forward(call)
        gradients = backend.backward(self.upstream, call, needs_x, needs_weight)
        assert gradients[2] is None
        return [y, *gradients[:2]]

    def expected(self) -> list[Tensor]:
        """The same in float64, by autograd through all features."""
        x, weight = (leaf.detach().double().requires_grad_() for leaf in (self.x, self.weight))
        features = self.features.expand(x)  # (rows, M, n)
        if self.keep is not None:
            features = features * self.keep.double().unsqueeze(1)
        y = features.flatten(1) @ weight.flatten(1).T
        return [y.detach(), *torch.autograd.grad(y, (x, weight), self.upstream.double())]


def problem(
    basis: BSpline = CUBIC, base: str = "silu", rows: int = 5, n: int = 3, out: int = 4
) -> Problem:
    features = Features(basis, base)
    x = 2 * torch.randn(rows, n)
    weight, upstream = torch.randn(out, features.size, n), torch.randn(rows, out)
    return Problem(features, *(tensor.to(DEVICE) for tensor in (x, weight, upstream)))


def assert_equal(results: list[Tensor], expected: list[Tensor], tolerance: float = 2e-6) -> None:
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        difference = (result.double() - wanted.double()).norm()
        assert difference <= tolerance * wanted.double().norm() + 1e-12


@kernels
@pytest.mark.parametrize("basis", SPLINES[::2], ids=repr)
def test_equals_the_reference(basis: BSpline) -> None:
    case = problem(basis, rows=19)
    assert_equal(case.run(), case.expected())


@kernels
@pytest.mark.parametrize("outside", ["zero", "linear"])
@pytest.mark.parametrize("base", [name for name in BASE_FUNCTIONS if name != "silu"])
def test_base_functions(base: str, outside: str) -> None:
    case = problem(BSpline(outside=outside), base)
    assert_equal(case.run(), case.expected())


@kernels
@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("shape", [(1, 1, 1), (17, 3, 33), (2, 35, 1), (33, 16, 16)], ids=str)
def test_odd_shapes_with_dropout(shape: tuple[int, int, int]) -> None:
    rows, n, out = shape
    case = problem(BSpline(2, 2), rows=rows, n=n, out=out)
    case.keep = (torch.rand_like(case.x) < 0.8) / 0.8
    assert_equal(case.run(), case.expected())


@kernels
@pytest.mark.parametrize(
    ("dtype", "weight_dtype"),
    [*((dtype, dtype) for dtype in DTYPES), *itertools.pairwise([*DTYPES, torch.float32])],
    ids=str,
)
def test_dtypes(dtype: torch.dtype, weight_dtype: torch.dtype) -> None:
    case = problem(rows=40)
    case.x = case.x.to(weight_dtype)
    case.weight = case.weight.to(weight_dtype)
    case.upstream = case.upstream.to(dtype)
    case.dtype = dtype
    results, expected = case.run(), case.expected()
    assert [result.dtype for result in results] == [dtype, weight_dtype, weight_dtype]
    # The interpreter truncates bfloat16 instead of rounding: up to 1/128 for each factor.
    assert_equal(results, expected, 2e-6 if {dtype, weight_dtype} == {torch.float32} else 0.012)


@kernels
def test_a_batch_without_rows() -> None:
    case = problem(rows=0)
    y, grad_x, grad_weight = case.run()
    assert y.shape == (0, 4)
    assert grad_x.shape == (0, 3)
    assert torch.equal(grad_weight, torch.zeros_like(case.weight))


@kernels
@pytest.mark.parametrize("outside", ["zero", "linear"])
@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_at_knots(order: int, outside: str) -> None:
    """Knots that are exact in float32. At a corner the slope is from the right."""
    basis = BSpline(4, order, outside=outside)
    points = torch.tensor([*basis.knots, -100.0, 100.0, 1e6])
    case = problem(basis, rows=len(points), n=1)
    case.x = points.unsqueeze(1).to(DEVICE)
    expected = case.expected()
    slopes = case.features.derivative(case.x.double()).squeeze(-1)  # (points, M)
    gradient = case.upstream.double() @ case.weight.double().squeeze(-1)  # (points, M)
    expected[1] = (slopes * gradient).sum(1, keepdim=True)
    assert_equal(case.run(), expected)


@kernels
@pytest.mark.parametrize("order", [1, 3])
def test_far_outside_is_zero(order: int) -> None:
    case = problem(BSpline(order=order), "none", rows=6)
    case.x[:] = torch.tensor([1e30, -1e30, 3e38, -3e38, torch.inf, -torch.inf]).unsqueeze(1)
    for result in case.run():
        assert (result == 0).all()


@kernels
@pytest.mark.parametrize("base", ["silu", "none"])
@pytest.mark.parametrize("order", [1, 3])
def test_nan_stays_in_its_row(order: int, base: str) -> None:
    case = problem(BSpline(order=order), base, rows=18)
    clean = case.run()
    case.x[7, 1] = torch.nan
    y, grad_x, grad_weight = case.run()
    assert y[7].isnan().all()
    assert grad_x[7, 1].isnan()
    assert grad_weight[:, :, 1].isnan().all()
    others = torch.arange(18, device=DEVICE) != 7
    assert torch.equal(y[others], clean[0][others])
    assert torch.equal(grad_x[others], clean[1][others])
    assert torch.equal(grad_weight[:, :, [0, 2]], clean[2][:, :, [0, 2]])


def within_nan(tensor: Tensor) -> Tensor:
    """The same values in a strided view of a larger tensor of NaN."""
    around = torch.full([size + 2 for size in tensor.shape[::-1]], torch.nan, device=DEVICE)
    view = around[tuple(slice(1, -1) for _ in tensor.shape)].permute(*range(tensor.dim())[::-1])
    return view.copy_(tensor)


@kernels
@pytest.mark.usefixtures("nan_buffers")
def test_strides_and_neighbours_do_not_matter() -> None:
    case = problem(rows=17)
    case.keep = torch.full_like(case.x, 1.25)
    plain = case.run()
    for name in ("x", "weight", "upstream", "keep"):
        setattr(case, name, within_nan(getattr(case, name)))
        assert not getattr(case, name).is_contiguous()
    for result, wanted in zip(case.run(), plain, strict=True):
        assert torch.equal(result, wanted)
    case.upstream = torch.ones(1, 1, device=DEVICE).expand(17, 4)  # the gradient of y.sum()
    assert_equal(case.run(), case.expected())


@kernels
def test_sharing_out_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = problem(rows=37)  # splits of 19 and 18 rows
    monkeypatch.setattr(backend, "_splits", lambda *_: 2)
    results = case.run()
    assert_equal(results, case.expected())
    for again, first in zip(case.run(), results, strict=True):
        assert torch.equal(again, first)


@kernels
def test_only_what_is_needed() -> None:
    case = problem()
    y, grad_x, grad_weight = case.run()
    for needs_x, needs_weight in [(True, False), (False, True), (False, False)]:
        wanted = [y, grad_x if needs_x else None, grad_weight if needs_weight else None]
        for result, value in zip(case.run(needs_x, needs_weight), wanted, strict=True):
            assert (result is None) if value is None else torch.equal(result, value)


def test_splits_fill_the_processors_and_stay_small() -> None:
    for rows, out, size, n in [(16384, 1536, 9, 384), (65536, 3072, 9, 768), (100, 8, 9, 8)]:
        splits = backend._splits(rows, out, size, n, 132)
        tiles = size * -(-out // 256) * -(-n // 128)
        assert 1 <= splits <= max(1, rows // 128)
        assert splits == 1 or splits * tiles <= 4 * 132
    assert backend._splits(16384, 64, 9, 64, 132) > 4  # 9 tiles would leave most processors idle


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"basis": SimpleNamespace()}, "SimpleNamespace"),
        ({"basis": BSpline(grid=(0.0, 1.0, 3.0))}, "uniform"),
        ({"dtype": torch.float64}, "float64"),
        ({"device": torch.device("meta")}, "meta"),
        ({"triton": None}, "not installed"),
    ],
    ids=str,
)
def test_says_what_is_unsupported(
    changes: dict, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "INTERPRETED", SimpleNamespace(value="device" not in changes))
    monkeypatch.setattr(backend, "triton", changes.get("triton", backend.triton))
    features = SimpleNamespace(basis=changes.get("basis", BSpline()), base="silu")
    device, dtype = changes.get("device", torch.device(DEVICE)), changes.get("dtype", torch.float32)
    assert reason in backend.unsupported(device, features, dtype)


def test_the_module_does_without_triton() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch; "
        "from nanogpkant.kan.backends import triton; "
        "assert 'not installed' in triton.unsupported(torch.device('cpu'), None, torch.float32)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


COMPILE = """
import json, torch
from benchmarks.compiled_code import KERNELS, GPUTarget, compiled, row
rows = [row(name, b, "sm_90") for name, (_, choices) in KERNELS.items() for b in choices[:2]]
for target in ("sm_80", "sm_100", "gfx942"):
    rows += [row(name, KERNELS[name][1][2], target) for name in ("forward", "grad_weight")]
for kernel, choices in KERNELS.values():
    compiled(kernel, choices[-2], GPUTarget("cuda", 90, 32), torch.float32)
print(json.dumps(rows))
"""


def test_compiles_for_gpus_that_are_not_there(tmp_path) -> None:
    """No products serialised, few spills, and tensor cores in use: see results/compiled_code.md."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", COMPILE], env=environment, capture_output=True, text=True
    )
    if "ptxas" in run.stderr and "Cannot find" in run.stderr:
        pytest.skip("this triton comes without ptxas")
    assert run.returncode == 0, run.stderr
    rows = json.loads(run.stdout)
    assert len(rows) == 3 * 2 + 3 * 2
    for row in rows:
        assert row["messages"] == "none", row
        assert row["products"] != "none", row
        assert row["shared memory, KB"] <= 227, row
        assert row["spilled bytes"] <= (60 if row["target"] == "sm_90" else 800), row
    assert all("wgmma" in row["products"] for row in rows if row["target"] == "sm_90")
