"""Whether two models compute the same loss and gradients: before any time is shown."""

import torch

from nanogpkant.base.errors import UserError
from nanogpkant.measure.step import Job, batch, build


def loss_and_gradients(job: Job) -> dict[str, torch.Tensor]:
    """The loss of a job's model on its batch, and the gradient of every parameter, by name."""
    model, tokens = build(job), batch(job)
    loss = model(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"loss": loss.detach()} | gradients


def require_equal(
    ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float, problem: str
) -> None:
    """Compare tensors of the same names, relative to the largest value of ours.

    Raises:
        UserError: they differ; the message begins with ``problem``.
    """
    for name, value in ours.items():
        size = value.abs().max().clamp(min=torch.finfo(value.dtype).tiny)  # all may be zero
        error = ((theirs[name] - value).abs().max() / size).item()
        if not error <= tolerance:
            raise UserError(f"{problem} by {error:.0e}: no times")
