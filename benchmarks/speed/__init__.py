"""Timings against other libraries; a layer or model with wrong results is not timed.

``python -m benchmarks.speed layer|step|sample|gpu``. Each of these four modules has a function
``run`` that returns a ``Report``; its parameters are the flags. They share ``contenders`` (layers
to time), ``gate`` (correctness), ``measure`` (time and memory), ``goals`` (the project's targets),
``report`` and ``charts``.
"""
