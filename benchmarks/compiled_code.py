"""The Triton kernels compiled for GPUs that are not there: registers, spills, tensor-core products.

    TRITON_INTERPRET=0 python -m benchmarks.compiled_code [--targets sm_90,gfx942] [--out results]

Every block configuration in bfloat16, cubic splines with SiLU, aligned sizes. ptxas's message C75xx
says that it serialised the asynchronous products of a loop, which halves their speed.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.compiler import ASTSource

from nanogpkant.base.files import write_atomic, write_json
from nanogpkant.kan import BSpline
from nanogpkant.kan.backends import triton as backend
from nanogpkant.kan.backends.triton_features import constants_of
from nanogpkant.kan.features import Features
from nanogpkant.report.table import Row, markdown

KERNELS = {
    "forward": (backend._forward_kernel, backend.FORWARD_BLOCKS),
    "grad_x": (backend._grad_x_kernel, backend.GRAD_X_BLOCKS),
    "grad_weight": (backend._grad_weight_kernel, backend.GRAD_WEIGHT_BLOCKS),
}
TARGETS = ("sm_80", "sm_90", "sm_100", "gfx942")
PRODUCTS = ("wgmma.mma_async", "tcgen05.mma", "mma.sync", "v_mfma")  # of tensor cores


def compiled(
    kernel: Any, blocks: tuple[int, ...], target: GPUTarget, dtype: torch.dtype = torch.bfloat16
) -> Any:
    """A kernel compiled for products of aligned matrices."""
    kernel, (br, bo, bi, warps, stages) = kernel.fn, blocks
    c = constants_of(Features(BSpline()), dtype)
    constants = {"keep": None, "c": c, "BR": br, "BO": bo, "BI": bi}
    constants = {name: constants[name] for name in kernel.arg_names if name in constants}
    pointers = {"x": "*fp32", "grad_x": "*fp32", "grad_weight": "*fp32"}
    pointers |= dict.fromkeys(
        ("weight", "y", "grad_y"), "*bf16" if dtype == torch.bfloat16 else "*fp32"
    )
    signature = {name: pointers.get(name, "i32") for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name in (*pointers, "n", "out")
    }
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}
    return triton.compile(ASTSource(kernel, signature, constants, attributes), target, options)


def row(name: str, blocks: tuple[int, ...], target: str) -> Row:
    """What the compiler made of a kernel and its blocks."""
    if target.startswith("gfx"):
        made = compiled(KERNELS[name][0], blocks, GPUTarget("hip", target, 64))
        code = made.asm["amdgcn"]
        found = {
            key: int(re.findall(rf"\.{word}: +(\d+)", code)[0])
            for key, word in (("registers", "vgpr_count"), ("spilled bytes", "vgpr_spill_count"))
        }
        found["spilled bytes"] *= 4
        messages: list[str] = []
    else:
        capability = int(target.removeprefix("sm_"))
        made = compiled(KERNELS[name][0], blocks, GPUTarget("cuda", capability, 32))
        code = made.asm["ptx"]
        said = assembled(code, capability)
        found = {
            "registers": int(re.findall(r"Used (\d+) registers", said)[0]),
            "spilled bytes": int(re.findall(r"(\d+) bytes spill stores", said)[0]),
        }
        messages = sorted(set(re.findall(r"C75\d\d", said)))
    products = next((f"{code.count(p)} {p}" for p in PRODUCTS if p in code), "none")
    shared = {"shared memory, KB": made.metadata.shared / 1024}
    where: Row = {
        "target": target,
        "kernel": name,
        "rows, outputs, inputs, warps, stages": str(blocks),
    }
    return (
        where | found | shared | {"products": products, "messages": ", ".join(messages) or "none"}
    )


def assembled(code: str, capability: int) -> str:
    """What ptxas says about the PTX of a kernel, with Triton's own options."""
    architecture = f"sm_{capability}{'a' if capability >= 90 else ''}"
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder, "kernel.ptx")
        ptx.write_text(code)
        options = ["-v", "--regAllocOptLevel=2", f"--gpu-name={architecture}", str(ptx)]
        command = [get_ptxas(capability).path, *options, "-o", str(ptx.with_suffix(".cubin"))]
        return subprocess.run(command, check=True, capture_output=True, text=True).stderr


def rows(targets: list[str]) -> list[Row]:
    """A row for every kernel, its blocks and every target."""
    return [
        row(name, blocks, target)
        for target in targets
        for name, (_, choices) in KERNELS.items()
        for blocks in choices
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default=",".join(TARGETS), help="sm_80, ..., gfx942")
    parser.add_argument("--out", help="folder for compiled_code.json and .md")
    options = parser.parse_args()
    table = rows(options.targets.split(","))
    text = markdown(table, {key: key for key in table[0]})
    print(text)
    if options.out:
        title = (
            f"# The Triton kernels, compiled\n\nbfloat16, triton {triton.__version__}; no GPU.\n\n"
        )
        command = "    TRITON_INTERPRET=0 python -m benchmarks.compiled_code --out results\n\n"
        write_atomic(Path(options.out, "compiled_code.md"), title + command + text + "\n")
        write_json(Path(options.out, "compiled_code.json"), table)


if __name__ == "__main__":
    main()
