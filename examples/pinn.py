"""Solve u''(x) = -pi^2 sin(pi x), u(-1) = u(1) = 0, by a KAN. The solution is sin(pi x).

python examples/pinn.py
"""

import math

import torch

import nanogpkant as ng

torch.manual_seed(0)
model = ng.KAN([1, 4, 1], basis=ng.BSpline(8, 3, (-2.0, 2.0)), dtype=torch.float64)
x = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None].requires_grad_()
ends = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)


def loss_of() -> torch.Tensor:
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
    residual = curvature + math.pi**2 * torch.sin(math.pi * x)
    return residual.square().mean() + 100 * model(ends).square().mean()


optimizer = torch.optim.LBFGS(model.parameters(), max_iter=150, line_search_fn="strong_wolfe")


def closure() -> torch.Tensor:
    optimizer.zero_grad()
    loss = loss_of()
    loss.backward()
    return loss


print(f"loss before: {closure().item():.3f}")
optimizer.step(closure)
error = (model(x) - torch.sin(math.pi * x)).abs().max().item()
print(f"loss after: {loss_of().item():.2e}, largest error of u: {error:.1e}")

found = ng.interpret(model, inputs=x.detach())
for name in found.layers:
    for output, formula in enumerate(found.formulas(name)):
        print(f"layer {name}, output {output}: {formula}")
