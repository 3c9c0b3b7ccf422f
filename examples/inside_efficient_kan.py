"""Look inside a model made of another library's KAN layers: convert, rank, prune, draw.

    python examples/inside_efficient_kan.py [PICTURE.png]

The layer below has the attributes and the formula of efficient-kan's, which many projects copied;
one of theirs takes its place as it is. FastKAN, pykan, inkan and flashkan are known, too.
"""

import sys

import torch
import torch.nn.functional as F
from torch import nn

import nanogpkant as ng


class TheirLinear(nn.Module):
    def __init__(self, n: int, out: int, size: int = 5, order: int = 3) -> None:
        super().__init__()
        self.spline_order = order
        knots = torch.arange(-order, size + order + 1) * (2 / size) - 1
        self.register_buffer("grid", knots.expand(n, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out, n) / n**0.5)
        self.spline_weight = nn.Parameter(0.1 * torch.randn(out, n, size + order))
        self.base_activation = nn.SiLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z, grid = x.unsqueeze(-1), self.grid
        splines = ((z >= grid[:, :-1]) & (z < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.spline_order + 1):
            left = (z - grid[:, : -(k + 1)]) / (grid[:, k:-1] - grid[:, : -(k + 1)])
            right = (grid[:, k + 1 :] - z) / (grid[:, k + 1 :] - grid[:, 1:-k])
            splines = left * splines[..., :-1] + right * splines[..., 1:]
        base = F.linear(self.base_activation(x), self.base_weight)
        return base + torch.einsum("...ik,oik->...o", splines, self.spline_weight)


torch.manual_seed(0)
model = nn.Sequential(TheirLinear(3, 4), TheirLinear(4, 1))
x = 2 * torch.rand(400, 3) - 1
y = torch.sin(3 * x[:, :1]) + x[:, 1:2] ** 2  # the third input does nothing
optimizer = torch.optim.Adam(model.parameters(), 2e-2)
for _ in range(300):
    optimizer.zero_grad()
    F.mse_loss(model(x), y).backward()
    optimizer.step()
print(f"loss {F.mse_loss(model(x), y).item():.4f}")

before = model(x).detach()
ng.from_kans(model)  # in place: ours from here on, and the same function
print(f"converted: outputs differ by {(model(x) - before).abs().max().item():.1e}")

found = ng.interpret(model, inputs=x, loss=lambda output: F.mse_loss(output, y))
print(found.edges[["layer", "input", "output", "importance", "formula"]].head(6).to_string())
print(found.faithfulness.to_string(index=False))
pruned, judged = found.prune(0.25)
print(f"without a quarter of the edges: loss {judged['loss']:.4f}")
if len(sys.argv) > 1:
    found.draw(top=12, parts=True).savefig(sys.argv[1], dpi=110)
