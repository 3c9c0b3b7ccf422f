"""Gated timings: a number is printed only after the layer or model was seen to be right.

``layer``, ``step``, ``sample`` and ``gpu`` are the benchmarks; each has a ``run`` that takes its
flags (``flags``) and gives back a ``Report``. The rest is what they share: ``contenders`` (whom to
time), ``gate`` (are they right), ``timing`` and ``memory`` (what do they cost), ``report`` and
``charts`` (what people read).
"""

from typing import TYPE_CHECKING

from jsonargparse import Namespace

if TYPE_CHECKING:
    from benchmarks.speed.report import Report


def run(kind: str, options: Namespace) -> "Report":
    """Run one benchmark and write what ``--out`` asks for.

    Raises:
        UsageError: flags that cannot work here.
    """
    from benchmarks.speed import gpu, layer, sample, step  # torch, so not before it is needed

    benches = {"layer": layer.run, "step": step.run, "sample": sample.run, "gpu": gpu.run}
    return benches[kind](options)
