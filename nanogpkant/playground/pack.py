"""Tensors as one block of bytes, and the table that finds them there."""

import base64
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

Weights = Literal["float32", "bfloat16", "int8"]
BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}  # of a number
PANEL = 4  # every tensor starts at a multiple of so many bytes


@dataclass
class Pack:
    """Tensors in the order in which they were added, each known by its number.

    Args:
        weights: format of matrices; int8 has a scale for every row.
    """

    weights: Weights
    table: list[dict[str, Any]] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)

    def add(self, tensor: Tensor) -> int:
        """Add a tensor in float32; returns its number in the table."""
        return self._enter(tensor, "float32", tensor.detach().float())

    def add_matrix(self, matrix: Tensor) -> int:
        """Add a matrix in the format of matrices; returns its number in the table."""
        matrix, kind = matrix.detach().float(), self.weights
        if kind == "float32":
            return self.add(matrix)
        if kind == "bfloat16":
            return self._enter(matrix, kind, matrix.bfloat16().view(torch.int16))
        scale = _scale(matrix)
        number = self._enter(matrix, kind, (matrix / scale[:, None]).round().to(torch.int8))
        self.table[number]["scale"] = self._append(scale)
        return number

    def _enter(self, tensor: Tensor, kind: str, stored: Tensor) -> int:
        self.table.append({"shape": list(tensor.shape), "kind": kind, "at": self._append(stored)})
        return len(self.table) - 1

    def _append(self, tensor: Tensor) -> int:
        self.content += bytes(-len(self.content) % PANEL)
        at = len(self.content)
        self.content += tensor.cpu().contiguous().numpy().tobytes()
        return at

    def read(self, number: int) -> Tensor:
        """A tensor that was added in float32."""
        shape, at = self.table[number]["shape"], self.table[number]["at"]
        return (
            torch.frombuffer(self.content, dtype=torch.float32, offset=at, count=math.prod(shape))
            .view(shape)
            .clone()
        )

    def as_text(self) -> str:
        """The bytes in base64."""
        return base64.b64encode(bytes(self.content)).decode("ascii")


def rounded(matrix: Tensor, weights: Weights) -> Tensor:
    """A matrix as it comes out of a pack."""
    if weights == "float32":
        return matrix
    if weights == "bfloat16":
        return matrix.bfloat16().to(matrix.dtype)
    scale = _scale(matrix)[:, None]
    return (matrix / scale).round() * scale


def _scale(matrix: Tensor) -> Tensor:
    """(rows, columns) -> (rows,): the step between two int8 numbers of each row."""
    return matrix.abs().amax(1).clamp(min=1e-30) / 127
