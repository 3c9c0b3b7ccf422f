"""kan_linear on every backend of a CPU: results, errors, and its integration with torch."""

import dataclasses

import pytest
import torch
from cases import ATOMS, FEW, FIXED, GROUPED
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nanogpkant.kan import BSpline, Chebyshev, Features, Shared, kan_linear
from nanogpkant.kan.functional import pick_backend

ON_CPU = ["reference", "recompute"]
SHAPES = [(), (1,), (7,), (2, 5), (2, 0, 4), (0,), (1, 2, 3)]
few = pytest.mark.parametrize("features", FEW, ids=repr)
on_cpu = pytest.mark.parametrize("backend", ON_CPU)


def assert_close(results: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    for result, wanted in zip(results, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=tolerance, atol=tolerance)


def relative_error(result: Tensor, expected: Tensor) -> float:
    return ((result.double() - expected).norm() / expected.norm()).item()


@on_cpu
def test_output_is_the_sum_over_all_features(features, problem, backend: str) -> None:
    case = problem(features, keep=True)
    x, keep = case.x.detach(), case.keep
    expected = case.bias.detach().expand(7, 4).clone()
    for i in range(3):  # one input at a time; groups are of one input here
        numbers = case.coefficients
        if numbers is not None:
            numbers = numbers[:, i : i + 1] if numbers.shape[1] == 3 else numbers
            alone = dataclasses.replace(
                features, basis=dataclasses.replace(features.basis, groups=1)
            )
            values = alone.expand(x[:, i : i + 1], numbers).squeeze(-1)
        else:
            values = features.expand(x[:, i]).T  # (rows, M)
        expected += keep[:, i : i + 1] * (values.detach() @ case.weight[:, :, i].detach().T)
    torch.testing.assert_close(case.forward(backend), expected)


@pytest.mark.usefixtures("nan_buffers")
@pytest.mark.parametrize("keep", [False, True], ids=["whole", "dropped"])
def test_backends_agree_in_output_and_every_gradient(features, problem, keep: bool) -> None:
    case = problem(features, keep=keep)
    assert_close(case.run("recompute"), case.run("reference"))


@on_cpu
@few
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_leading_dimensions_are_only_rows(features, problem, shape, backend: str) -> None:
    case = problem(features, shape, keep=True)
    results = case.run(backend)
    assert [r.shape for r in results] == [(*shape, 4), *(leaf.shape for leaf in case.leaves())]
    flat = dataclasses.replace(
        case,
        x=case.x.detach().reshape(-1, 3).requires_grad_(),
        keep=case.keep.reshape(-1, 3),
        upstream=case.upstream.reshape(-1, 4),
    )
    expected = flat.run(backend)
    assert_close(results, [expected[0].view(*shape, 4), expected[1].view(*shape, 3), *expected[2:]])


@on_cpu
@pytest.mark.parametrize("features", [FIXED, ATOMS], ids=repr)
def test_one_input_one_output(features, problem, backend: str) -> None:
    case = problem(features, n=1, out=1)
    expanded = features.expand(case.x, case.coefficients)  # (7, M, 1)
    expected = (expanded * case.weight).sum(-2) + case.bias
    torch.testing.assert_close(case.forward(backend), expected)
    assert_close(case.run(backend), case.run("reference"))


def test_gradients_are_finite_differences(features, problem) -> None:
    case = problem(features, (3,), out=2, keep=True)
    case.x.data.uniform_(-2.9, 2.9)  # away from kinks, where there is no derivative

    def function(x: Tensor, weight: Tensor, *others: Tensor) -> Tensor:
        *coefficients, bias = others
        return kan_linear(x, weight, features, bias, *(coefficients or [None]), case.keep)

    assert torch.autograd.gradcheck(function, case.leaves())


@on_cpu
@few
def test_both_are_differentiated_twice(features, problem, backend: str) -> None:
    case = problem(features, (2,), out=2)
    case.x.data.uniform_(-2, 2)

    def function(x: Tensor, weight: Tensor, *coefficients: Tensor) -> Tensor:
        return kan_linear(x, weight, features, None, *coefficients, backend=backend)

    assert torch.autograd.gradgradcheck(function, case.leaves()[:-1])


@on_cpu
@few
def test_each_gradient_alone(features, problem, backend: str) -> None:
    case = problem(features, keep=True)
    expected = dict(zip(map(id, case.leaves()), case.run("reference")[1:], strict=True))
    for wanted in case.leaves():
        for leaf in case.leaves():
            leaf.requires_grad_(leaf is wanted)
        case.forward(backend).backward(case.upstream)
        torch.testing.assert_close(wanted.grad, expected[id(wanted)])
        assert all(leaf.grad is None for leaf in case.leaves() if leaf is not wanted)
        wanted.grad = None


@on_cpu
@few
def test_without_gradients_there_is_no_graph(features, problem, backend: str) -> None:
    case = problem(features)
    expected = case.forward(backend)
    for no_graph in (torch.no_grad(), torch.inference_mode()):
        with no_graph:
            y = case.forward(backend)
        assert not y.requires_grad
        assert torch.equal(y, expected)


@on_cpu
def test_autocast_multiplies_in_bfloat16(features, problem, backend: str) -> None:
    case = problem(features, (40,), dtype=torch.float32, keep=True)
    exact = case.map(Tensor.double).run("reference")
    with torch.autocast("cpu", torch.bfloat16):
        rough = case.run(backend)
    assert [r.dtype for r in rough] == [torch.bfloat16] + [torch.float32] * len(case.leaves())
    for result, wanted in zip(rough, exact, strict=True):
        # bfloat16 rounds by up to 1/256; without rounding it would be 0
        assert 1e-5 < relative_error(result, wanted) < 0.02


@on_cpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 0.02), (torch.float16, 0.003)],
    ids=str,
)
def test_dtypes(features, problem, dtype: torch.dtype, tolerance: float, backend: str) -> None:
    case = problem(features, (40,), dtype=dtype, keep=True)
    exact = case.map(Tensor.double).run("reference")
    for result, wanted in zip(case.run(backend), exact, strict=True):
        assert result.dtype == dtype
        assert relative_error(result, wanted) < tolerance


def strided(tensor: Tensor) -> Tensor:
    """The same values in a strided, transposed view, with NaN between them."""
    around = torch.full([2 * size for size in tensor.shape[::-1]], torch.nan, dtype=tensor.dtype)
    view = around[tuple(slice(None, None, 2) for _ in tensor.shape)].permute(
        *range(tensor.dim())[::-1]
    )
    return view.copy_(tensor)


@pytest.mark.usefixtures("nan_buffers")
@on_cpu
@few
def test_strides_do_not_matter(features, problem, backend: str) -> None:
    case = problem(features, (2, 5), keep=True)
    scattered = case.map(strided)
    assert not any(leaf.is_contiguous() for leaf in (scattered.x, scattered.weight, scattered.keep))
    assert_close(scattered.run(backend), case.run(backend))

    case.forward(backend).sum().backward()  # the gradient is an expanded scalar
    case.upstream = torch.ones_like(case.upstream)
    assert_close([leaf.grad for leaf in case.leaves()], case.run("reference")[1:])


@on_cpu
def test_what_is_not_finite_stays_in_its_rows_and_inputs(features, problem, backend: str) -> None:
    case = problem(features, (9,), dtype=torch.float32)
    clean = case.run(backend)
    bad = [(1, 0, torch.nan), (2, 0, torch.inf), (3, 1, -torch.inf), (4, 1, 1e30), (6, 0, -1e30)]
    for row, column, value in bad:
        case.x.data[row, column] = value
    y, grad_x, grad_weight = case.run(backend)[:3]
    assert y[1].isnan().all()
    assert y[[4, 6]].isfinite().all()
    assert grad_x[[4, 6]].isfinite().all()
    others = [0, 5, 7, 8]
    assert torch.equal(y[others], clean[0][others])
    assert torch.equal(grad_x[others], clean[1][others])
    torch.testing.assert_close(grad_weight[..., 2], clean[2][..., 2])


@pytest.mark.parametrize(
    ("changes", "error", "named"),
    [
        ({"backend": "cuda"}, ValueError, "cuda.*auto, triton, recompute, reference"),
        ({"x": torch.zeros(2, 4)}, ValueError, r"weight is \(4, 9, 3\).*\(4, 9, 4\)"),
        ({"weight": torch.zeros(4, 8, 3)}, ValueError, r"\(4, 8, 3\).*\(4, 9, 3\)"),
        ({"weight": torch.zeros(4, 27)}, ValueError, r"\(4, 27\).*\(4, 9, 3\)"),
        ({"features": Features(BSpline(), "none")}, ValueError, r"\(4, 9, 3\).*\(4, 8, 3\)"),
        ({"keep": torch.ones(2, 1)}, ValueError, r"keep is \(2, 1\).*\(2, 3\)"),
        ({"coefficients": torch.zeros(1, 1, 1)}, ValueError, r"coefficients are \(1, 1, 1\).*None"),
        ({"features": GROUPED, "weight": torch.zeros(4, 1, 3)}, ValueError, r"None.*\(1, 3, 10\)"),
        (
            {
                "features": Features(Shared(Chebyshev(2), groups=2)),
                "weight": torch.zeros(4, 1, 3),
                "coefficients": torch.zeros(1, 2, 3),
            },
            ValueError,
            "3 inputs do not split into 2 groups",
        ),
        ({"x": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "int64"),
        ({"x": torch.zeros(2, 3, dtype=torch.bool)}, TypeError, "bool"),
        ({"x": torch.zeros(2, 3, dtype=torch.complex64)}, TypeError, "complex64"),
    ],
    ids=str,
)
@pytest.mark.parametrize("backend", ["auto", *ON_CPU])
def test_what_does_not_fit_is_refused(
    changes: dict, error: type[Exception], named: str, backend: str
) -> None:
    arguments = {"x": torch.zeros(2, 3), "weight": torch.zeros(4, 9, 3), "features": FIXED}
    arguments["backend"] = backend
    assert kan_linear(**arguments).shape == (2, 4)
    with pytest.raises(error, match=named):
        kan_linear(**arguments | changes)


@pytest.mark.parametrize("features", [FIXED, GROUPED], ids=repr)
def test_triton_by_name_does_not_give_way_to_another(features, problem) -> None:
    case = problem(features, dtype=torch.float32)
    with pytest.raises(ValueError, match=r"triton.*cannot run here: .*(not installed|cpu)"):
        case.forward("triton")


@pytest.mark.usefixtures("forgetful")
def test_auto_says_once_what_it_runs_and_why_nothing_faster(problem, logged) -> None:
    case = problem(FIXED, dtype=torch.float32)
    for _ in range(3):
        case.forward("auto")
    assert logged().count("backend recompute; not triton: triton") == 1
    case.map(Tensor.double).forward("auto")
    assert logged().count("backend recompute; not triton: triton") == 2


def test_auto_measures_where_there_is_a_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    here = (torch.device("cpu"), FIXED, torch.float32)
    assert pick_backend("auto", *here) == "recompute"
    monkeypatch.setattr("nanogpkant.kan.backends.triton.unsupported", lambda *_: None)
    assert pick_backend("auto", *here) == "auto"
    assert pick_backend("triton", *here) == "triton"
    assert pick_backend("recompute", *here) == "recompute"


@pytest.mark.parametrize("keep", [False, True], ids=["whole", "dropped"])
@few
def test_the_operators_keep_what_torch_asks_of_operators(features, problem, keep: bool) -> None:
    case = problem(features, dtype=torch.float32, keep=keep)
    constants = (features.spec, "recompute", torch.float32)
    tensors = (case.x, case.weight, case.coefficients, case.keep)
    torch.library.opcheck(torch.ops.nanogpkant.kan_linear, (*tensors, *constants))
    case = case.map(lambda t: t if t.dim() < 2 else t.mT.contiguous().mT)
    tensors = [t if t is None else t.detach() for t in (case.x, case.weight, case.coefficients)]
    for needs in [(True, True), (True, False), (False, True)]:
        arguments = (case.upstream, *tensors, case.keep, *constants, *needs)
        torch.library.opcheck(torch.ops.nanogpkant.kan_linear_backward, arguments)


@few
def test_compiles_without_a_graph_break(features, problem) -> None:
    torch.compiler.reset()
    compiled = torch.compile(kan_linear, fullgraph=True, backend="aot_eager")
    for rows in (7, 5, 1):  # the second makes the number of rows dynamic
        case = problem(features, (rows,), keep=True)
        y = compiled(case.x, case.weight, features, case.bias, case.coefficients, case.keep)
        results = [y, *torch.autograd.grad(y, case.leaves(), case.upstream)]
        assert_close(results, case.run("reference"))


@on_cpu
@few
def test_activation_checkpointing_changes_no_gradient(features, problem, backend: str) -> None:
    case = problem(features, keep=True)
    y = checkpoint(case.forward, backend, use_reentrant=False)
    results = [y, *torch.autograd.grad(y, case.leaves(), case.upstream)]
    assert_close(results, case.run(backend), tolerance=0)


@on_cpu
def test_torch_counts_the_flops_of_its_three_products(problem, backend: str) -> None:
    case = problem(FIXED)
    with FlopCounterMode(display=False) as counter:
        case.run(backend)
    assert counter.get_total_flops() == 3 * 2 * 7 * case.weight.numel()
