"""Gated timings against rivals: a layer or model that is wrong gets no time.

``python -m benchmarks.speed layer|step|sample|gpu``. Each of these four modules has a ``run``,
whose parameters are the flags and which returns a ``Report``. They share ``contenders`` (layers to
time), ``gate`` (correctness), ``measure`` (time and memory of the contenders), ``goals`` (the
project's own targets), ``report`` and ``charts``.
"""
