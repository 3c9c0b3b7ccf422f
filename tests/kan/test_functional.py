"""The recompute backend against the reference, and what kan_linear accepts."""

import pytest
import torch
from torch import Tensor

from nanogpkant.kan import BASE_FUNCTIONS, BSpline, kan_linear
from nanogpkant.kan.backends import recompute
from nanogpkant.kan.basis import feature_count

BASES = [
    BSpline(),
    BSpline(3, 1, (-2.0, 2.0)),
    BSpline(2, 5, (0.0, 1.0)),
    BSpline(order=2, grid=(-1.0, -0.3, 0.1, 2.0)),
]
SHAPES = [(), (3,), (7,), (2, 5), (2, 0, 4), (0,), (1, 2, 3)]
OUT, IN = 4, 3


@pytest.fixture
def chunks_of_three_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many features: 7 rows are then two full chunks and a ragged one."""

    def chunks(x: Tensor, features_per_input: int) -> list[slice]:
        return [slice(start, start + 3) for start in range(0, len(x), 3)]

    monkeypatch.setattr(recompute, "_chunks", chunks)


def inputs(
    basis: BSpline, base: str, shape: tuple[int, ...], dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Leaves x, weight, bias; x has values at knots, at ends and outside."""
    x = 2 * torch.randn(*shape, IN, dtype=dtype)
    special = torch.tensor([*basis.knots, *basis.grid_range, -40.0, 40.0], dtype=dtype)
    count = min(x.numel() // 2, len(special))
    x.view(-1)[:count] = special[torch.randperm(len(special))[:count]]
    weight = torch.randn(OUT, feature_count(basis, base), IN, dtype=dtype)
    bias = torch.randn(OUT, dtype=dtype)
    return x.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def outputs_and_gradients(
    backend: str, basis: BSpline, base: str, leaves: tuple[Tensor, ...], upstream: Tensor
) -> list[Tensor]:
    x, weight, bias = leaves
    y = kan_linear(x, weight, basis, base, bias, backend)
    return [y, *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.usefixtures("chunks_of_three_rows", "nan_buffers")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_recompute_equals_the_reference(
    basis: BSpline, base: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    leaves = inputs(basis, base, shape, dtype)
    upstream = torch.randn(*shape, OUT, dtype=dtype)
    expected = outputs_and_gradients("reference", basis, base, leaves, upstream)
    results = outputs_and_gradients("recompute", basis, base, leaves, upstream)
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    if basis.order == 1:  # a kink: at a knot autograd takes the mean slope, derivative the right's
        at_knot = (leaves[0].detach().unsqueeze(-1) - torch.tensor(basis.knots)).abs().amin(-1)
        smooth = at_knot > 1e-6
        expected[1], results[1] = expected[1] * smooth, results[1] * smooth
    for result, wanted in zip(results, expected, strict=True):
        assert result.shape == wanted.shape
        assert result.dtype == dtype
        torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance)


def test_chunks_cover_every_row_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recompute.CHUNK_FEATURES, "cpu", 70)
    x = torch.zeros(11, 4)
    chunks = list(recompute._chunks(x, 5))  # 20 features a row: 3 rows a chunk
    assert [len(x[rows]) for rows in chunks] == [3, 3, 3, 2]
    assert torch.equal(torch.cat([torch.arange(11)[rows] for rows in chunks]), torch.arange(11))
    assert len(list(recompute._chunks(x, 1000))) == 11  # a row too large for a chunk is one


@pytest.mark.usefixtures("nan_buffers")
def test_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = inputs(BSpline(), "silu", (10,), torch.float64)
    upstream = torch.randn(10, OUT, dtype=torch.float64)
    whole = outputs_and_gradients("recompute", BSpline(), "silu", leaves, upstream)
    monkeypatch.setitem(recompute.CHUNK_FEATURES, "cpu", 4 * IN * 9)
    chunked = outputs_and_gradients("recompute", BSpline(), "silu", leaves, upstream)
    torch.testing.assert_close(chunked, whole, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("chunks_of_three_rows", "nan_buffers")
@pytest.mark.parametrize("backend", ["recompute", "reference"])
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_strides_do_not_matter(backend: str, basis: BSpline) -> None:
    x, weight, bias = inputs(basis, "silu", (2, 5), torch.float64)
    upstream = torch.randn(2, 5, OUT, dtype=torch.float64)
    strided_x = x.detach().transpose(0, 2).contiguous().transpose(0, 2).requires_grad_()
    strided_weight = weight.detach().mT.contiguous().mT.requires_grad_()
    strided_upstream = torch.stack([upstream, upstream * torch.nan], -1)[..., 0]
    assert not any(t.is_contiguous() for t in (strided_x, strided_weight, strided_upstream))
    plain = outputs_and_gradients(backend, basis, "silu", (x, weight, bias), upstream)
    leaves = (strided_x, strided_weight, bias)
    strided = outputs_and_gradients(backend, basis, "silu", leaves, strided_upstream)
    torch.testing.assert_close(strided, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("chunks_of_three_rows", "nan_buffers")
@pytest.mark.parametrize("base", BASE_FUNCTIONS)
@pytest.mark.parametrize("basis", BASES, ids=repr)
def test_gradients_are_finite_differences(basis: BSpline, base: str) -> None:
    x = torch.empty(5, IN, dtype=torch.float64).uniform_(-3, 3).requires_grad_()
    _, weight, bias = inputs(basis, base, (), torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, weight, bias: kan_linear(x, weight, basis, base, bias, "recompute"),
        (x, weight, bias),
    )


def test_recompute_refuses_a_derivative_of_the_gradient_rather_than_leave_it_out() -> None:
    x, weight, _ = inputs(BSpline(), "silu", (4,), torch.float64)
    y = kan_linear(x, weight, BSpline(), backend="recompute")
    with pytest.raises(RuntimeError, match="reference"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


@pytest.mark.parametrize("base", BASE_FUNCTIONS)
def test_the_reference_has_a_derivative_of_the_gradient(base: str) -> None:
    basis, x = BSpline(2, 4), torch.empty(3, IN, dtype=torch.float64).uniform_(-2, 2)
    _, weight, _ = inputs(basis, base, (), torch.float64)
    assert torch.autograd.gradgradcheck(
        lambda x, weight: kan_linear(x, weight, basis, base, backend="reference"),
        (x.requires_grad_(), weight),
    )


@pytest.mark.usefixtures("chunks_of_three_rows", "nan_buffers")
@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["x", "weight", "bias"])
def test_one_gradient_alone(wanted: int) -> None:
    leaves = inputs(BSpline(), "silu", (7,), torch.float64)
    upstream = torch.randn(7, OUT, dtype=torch.float64)
    expected = outputs_and_gradients("reference", BSpline(), "silu", leaves, upstream)
    alone = [leaf.detach().requires_grad_(i == wanted) for i, leaf in enumerate(leaves)]
    kan_linear(alone[0], alone[1], BSpline(), "silu", alone[2], "recompute").backward(upstream)
    torch.testing.assert_close(alone[wanted].grad, expected[wanted + 1], rtol=1e-12, atol=1e-12)
    assert [leaf.grad is None for leaf in alone] == [i != wanted for i in range(3)]


@pytest.mark.usefixtures("chunks_of_three_rows", "nan_buffers")
@pytest.mark.parametrize("backend", ["recompute", "reference"])
def test_autocast_multiplies_in_bfloat16(backend: str) -> None:
    basis = BSpline()
    leaves = inputs(basis, "silu", (40,), torch.float32)
    upstream = torch.randn(40, OUT)
    exact = outputs_and_gradients("reference", basis, "silu", leaves, upstream)
    with torch.autocast("cpu", torch.bfloat16):
        y = kan_linear(leaves[0], leaves[1], basis, "silu", leaves[2], backend)
    assert y.dtype == torch.bfloat16
    rough = [y, *torch.autograd.grad(y, leaves, upstream.bfloat16())]
    assert all(gradient.dtype == torch.float32 for gradient in rough[1:])
    for result, wanted in zip(rough, exact, strict=True):
        error = (result - wanted).norm() / wanted.norm()
        assert 0 < error < 0.01  # bfloat16 rounds by up to 1/256; nothing rounded would be 0


@pytest.mark.parametrize("backend", ["recompute", "reference"])
def test_half_precision_inputs_of_half_precision_layers(backend: str) -> None:
    x, weight, bias = inputs(BSpline(), "silu", (9,), torch.float64)
    exact = kan_linear(x, weight, BSpline(), "silu", bias, backend)
    low = (tensor.detach().bfloat16() for tensor in (x, weight, bias))
    x, weight, bias = (tensor.requires_grad_() for tensor in low)
    y = kan_linear(x, weight, BSpline(), "silu", bias, backend)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == weight.grad.dtype == torch.bfloat16
    assert (y - exact).norm() / exact.norm() < 0.02


@pytest.mark.usefixtures("chunks_of_three_rows")
@pytest.mark.parametrize("backend", ["recompute", "reference"])
def test_bad_inputs_stay_in_their_rows(backend: str) -> None:
    leaves = inputs(BSpline(), "silu", (6,), torch.float32)
    x, weight, bias = (leaf.detach() for leaf in leaves)
    x[1, 0], x[2, 1], x[4, 2] = torch.nan, 1e30, -1e30
    x.requires_grad_()
    y = kan_linear(x, weight, BSpline(), "silu", bias, backend)
    y.sum().backward()
    assert y[1].isnan().all()
    torch.testing.assert_close(y[2], 1e30 * weight[:, 0, 1], rtol=1e-5, atol=0)  # SiLU's slope is 1
    clean = torch.tensor([True, False, True, True, True, True])
    assert y[clean].isfinite().all()
    assert x.grad[clean].isfinite().all()
    assert x.grad[1, 0].isnan()


def saved_tensors(backend: str, basis: BSpline, x: Tensor, weight: Tensor) -> list[Tensor]:
    saved = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kan_linear(x, weight, basis, "silu", None, backend)
    return saved


def storage_bytes(tensors: list[Tensor]) -> int:
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors}
    return sum(storage.nbytes() for storage in storages.values())


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("grid_size", [2, 30])
def test_recompute_saves_its_input_and_the_weight_alone(grid_size: int, autocast: bool) -> None:
    basis = BSpline(grid_size)
    x, weight, _ = inputs(basis, "silu", (5, 40), torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        kept = saved_tensors("recompute", basis, x, weight)
        features = saved_tensors("reference", basis, x, weight)
    assert {t.data_ptr() for t in kept} == {x.data_ptr(), weight.data_ptr()}
    assert storage_bytes(kept) == storage_bytes([x, weight])
    bytes_of_features = x.numel() * feature_count(basis, "silu") * (2 if autocast else 4)
    assert storage_bytes(features) > bytes_of_features


def test_auto_is_recompute() -> None:
    x, weight, _ = inputs(BSpline(), "silu", (5,), torch.float32)
    saved = saved_tensors("auto", BSpline(), x, weight)
    assert {t.data_ptr() for t in saved} == {x.data_ptr(), weight.data_ptr()}


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"base": "relu"}, ValueError, "relu.*silu"),
        ({"backend": "cuda"}, ValueError, "cuda.*recompute"),
        ({"x": torch.zeros(2, IN + 1)}, ValueError, "weight"),
        ({"weight": torch.zeros(OUT, 8, IN)}, ValueError, r"\(4, 8, 3\).*\(4, 9, 3\)"),
        ({"base": "none"}, ValueError, r"\(4, 9, 3\).*\(4, 8, 3\)"),
        ({"x": torch.zeros(2, IN, dtype=torch.int64)}, TypeError, "int64"),
        ({"x": torch.zeros(2, IN, dtype=torch.bool)}, TypeError, "bool"),
        ({"x": torch.zeros(2, IN, dtype=torch.complex64)}, TypeError, "complex64"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(changes: dict, error: type[Exception], named: str) -> None:
    arguments = {"x": torch.zeros(2, IN), "weight": torch.zeros(OUT, 9, IN), "basis": BSpline()}
    assert kan_linear(**arguments).shape == (2, OUT)
    with pytest.raises(error, match=named):
        kan_linear(**arguments | changes)
