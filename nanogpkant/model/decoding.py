"""New tokens of a few texts, in decoding.c: what ``GPT.forward`` computes with a cache.

A token of a small model is hundreds of small operations of torch, whose calls take longer than the
numbers. Here it is one call. Weights are packed once, and only the features that are not zero are
multiplied: of a cubic spline's, four an input.
"""

import ctypes
import logging
from collections.abc import Callable
from ctypes import Structure, c_float, c_long, c_void_p
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogpkant.kan.backends import native
from nanogpkant.kan.layer import KANLinear
from nanogpkant.model.activation import SwiGLU
from nanogpkant.model.cache import Cache
from nanogpkant.model.gpt import GPT, Block
from nanogpkant.model.positions import rotations
from nanogpkant.model.projection import Linear

log = logging.getLogger(__name__)

PANEL, ROWS = 64, 16  # as in decoding.c
AT_ONCE = 64  # tokens of all texts in a call, which bounds its memory
MOST_TEXTS = 32  # more are faster by torch's products
SOURCE = Path(__file__).with_name("decoding.c")
STEP = (("step", (c_void_p,) * 3 + (c_long,) * 4 + (c_void_p,)),)


class _Norm(Structure):
    _fields_ = (
        ("is_layer", c_long),
        ("epsilon", c_float),
        ("weight", c_void_p),
        ("bias", c_void_p),
    )


class _Product(Structure):
    _fields_ = (
        *((name, c_long) for name in ("n", "size", "out")),
        ("weight", c_void_p),
        ("bias", c_void_p),
        ("norm", _Norm),
        ("expand", c_void_p),
        ("numbers", c_void_p),
        ("count", c_long),
    )


class _Block(Structure):
    _fields_ = (
        *((name, _Norm) for name in ("norm_1", "norm_2", "q_norm", "k_norm")),
        *((name, _Product) for name in ("qkv", "attention_out", "mlp_in", "mlp_out")),
        ("bias", c_void_p),
    )


class _Model(Structure):
    _fields_ = (
        *((name, c_long) for name in ("layers", "width", "heads", "room")),
        *((name, c_void_p) for name in ("tokens", "positions", "cosine", "sine", "blocks")),
        ("norm", _Norm),
        ("head", _Product),
        ("scratch", c_void_p),
        ("index", c_void_p),
    )


class UnsupportedError(Exception):
    """The reason why a model has no compiled step."""


class Decoder:
    """The compiled step of a model, whose parameters must not change while it is in use.

    Raises:
        UnsupportedError: with the reason: another device or dtype, no C compiler, or settings that
            ``GPT.forward`` alone knows.
    """

    def __init__(self, model: GPT, texts: int) -> None:
        self.model, self.texts = model, texts
        self.layers = cast(list[Block], list(model.blocks))
        self.kept: list[Tensor] = []  # what the structs point to
        self._check()
        self.step = self._compile()
        embedding = model.tokens.weight
        head = embedding if model.head is None else model.head.weight
        self.blocks = (_Block * len(self.layers))(*map(self._block, self.layers))
        self.struct = _Model(
            layers=len(self.layers),
            width=model.config.n_embd,
            heads=model.config.n_head,
            tokens=self._pointer(embedding),
            positions=None if model.positions is None else self._pointer(model.positions.weight),
            blocks=ctypes.addressof(self.blocks),
            norm=self._norm(model.norm),
            head=self._packed(head[:, None], None),
        )

    @torch.no_grad()
    def __call__(self, ids: Tensor, cache: Cache) -> Tensor:
        """Ids (texts, T) of the tokens that follow those in the cache -> logits (texts, V).

        The logits are those of the token after the last.
        """
        cache.reserve(cache.length + ids.shape[1])
        room = cache.store.shape[4]
        if self.struct.room < room:
            self._make_tables(room)
        logits = torch.empty(self.texts, self.model.vocab_size)
        struct, store = ctypes.byref(self.struct), cache.store.data_ptr()
        columns = max(1, AT_ONCE // self.texts)
        parts = [part.contiguous() for part in ids.long().split(columns, dim=1)]
        for part in parts:
            last = logits.data_ptr() if part is parts[-1] else None
            where = room, self.texts, cache.length, part.shape[1]
            self.step(struct, part.data_ptr(), store, *where, last)
            cache.length += part.shape[1]
        return self.model.cap(logits)

    def _check(self) -> None:
        model, config = self.model, self.model.config
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in model.parameters()):
            raise UnsupportedError("float32 on a CPU is compiled")
        if torch.is_autocast_enabled("cpu"):
            raise UnsupportedError("autocast is on")
        for name, usual in (("conv", "none"), ("value_residual", False), ("score_degree", 0)):
            if getattr(config, name) != usual:
                raise UnsupportedError(f"model.{name} {getattr(config, name)}")
        if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
            raise UnsupportedError("forward hooks")
        for block in self.layers:
            kind = type(block.mlp.activation)
            if issubclass(kind, nn.Module) and kind not in (nn.Identity, SwiGLU):
                raise UnsupportedError(f"an activation of {kind.__name__}")
        if self.texts > MOST_TEXTS:
            raise UnsupportedError(f"{self.texts} texts")

    def _compile(self) -> Callable[..., Any]:
        mlp = self.layers[0].mlp
        activation = self.model.config.activation
        base = {"swiglu": "SILU"}.get(activation, activation.upper())
        if isinstance(mlp.activation, nn.Identity):
            base = "IDENTITY"
        macros = {"BASE": base, "GATED": int(mlp.is_gated)}
        library = native.compiled(SOURCE, STEP, frozenset(macros.items()))
        if library is None:
            raise UnsupportedError("there is no C compiler that works")
        return library.step

    def _pointer(self, tensor: Tensor | None) -> int | None:
        """Its address, for as long as this object lives."""
        if tensor is None:
            return None
        self.kept.append(tensor.detach().contiguous())
        return self.kept[-1].data_ptr()

    def _norm(self, norm: nn.Module) -> _Norm:
        if isinstance(norm, nn.Identity):
            return _Norm()
        if not isinstance(norm, nn.LayerNorm | nn.RMSNorm):
            raise UnsupportedError(f"a norm of {type(norm).__name__}")
        is_layer = isinstance(norm, nn.LayerNorm)
        bias = norm.bias if isinstance(norm, nn.LayerNorm) else None
        return _Norm(is_layer, norm.eps, self._pointer(norm.weight), self._pointer(bias))

    def _block(self, block: Block) -> _Block:
        attention = block.attention
        return _Block(
            norm_1=self._norm(block.norm_1),
            norm_2=self._norm(block.norm_2),
            q_norm=self._norm(attention.q_norm),
            k_norm=self._norm(attention.k_norm),
            qkv=self._product(attention.qkv),
            attention_out=self._product(attention.out),
            mlp_in=self._product(block.mlp.into),
            mlp_out=self._product(block.mlp.out),
        )

    def _product(self, layer: nn.Module) -> _Product:
        if type(layer) is KANLinear:
            return self._kan_product(layer)
        if isinstance(layer, nn.Linear) and type(layer) in (nn.Linear, Linear):
            return self._packed(layer.weight[:, None], layer.bias)
        raise UnsupportedError(f"a layer of {type(layer).__name__}")

    def _kan_product(self, layer: KANLinear) -> _Product:
        reason = native.unsupported(layer.features, torch.float32, torch.float32)
        if reason is not None:
            raise UnsupportedError(reason)
        product = self._packed(layer.effective_weight(), layer.bias)
        expand = native.expansion(layer.features, layer.coefficients, layer.in_features)
        product.expand, product.count = expand.address, expand.functions
        product.numbers = self._pointer(expand.numbers)
        if layer.prenorm == "rms":
            product.norm = _Norm(epsilon=torch.finfo(torch.float32).eps)
        return product

    def _packed(self, weight: Tensor, bias: Tensor | None) -> _Product:
        """The product with a weight (out, M, n), packed as (panels, n, M, PANEL)."""
        out, size, n = weight.shape
        padded = F.pad(weight.detach(), (0, 0, 0, 0, 0, -out % PANEL))
        packed = padded.unflatten(0, (-1, PANEL)).permute(0, 3, 2, 1)
        return _Product(n, size, out, self._pointer(packed), self._pointer(bias))

    def _make_tables(self, room: int) -> None:
        """What depends on positions, for the first ``room`` of them, and memory to work in."""
        model, struct = self.model, self.struct
        struct.room, self.tables = room, []
        for block, made in zip(self.layers, self.blocks, strict=True):
            if block.attention.bias is not None:
                self.tables.append(block.attention.bias.of(torch.arange(room)).contiguous())
                made.bias = self.tables[-1].data_ptr()
        if "rope" in model.config.positions:
            position = torch.arange(room)
            cosine, sine = rotations(position, model.config.n_embd // model.config.n_head)
            self.tables += [cosine.contiguous(), sine.contiguous()]
            struct.cosine, struct.sine = (table.data_ptr() for table in self.tables[-2:])
        of_blocks = [(b.qkv, b.attention_out, b.mlp_in, b.mlp_out) for b in self.blocks]
        products = [struct.head, *(product for block in of_blocks for product in block)]
        features = max(p.n * p.size for p in products)  # grids differ between layers
        rows, hidden = max(self.texts, AT_ONCE), self.blocks[0].mlp_in.out
        numbers = rows * (6 * struct.width + hidden) + self.texts * struct.heads * room
        numbers += ROWS * (max(p.n for p in products) + 2 * features)
        self.scratch = torch.empty(numbers)
        self.index = torch.empty(features, dtype=torch.int32)
        struct.scratch, struct.index = self.scratch.data_ptr(), self.index.data_ptr()


def make_decoder(model: GPT, texts: int) -> Decoder | None:
    """The compiled step of a model, or None where there is none."""
    try:
        return Decoder(model, texts)
    except UnsupportedError as reason:
        log.info("tokens by torch's operations: %s", reason)
        return None
