"""Devices and dtypes by name, and the measured choice between dtypes."""

import pytest
import torch

from nanogpkant.base.errors import UsageError
from nanogpkant.machine import device as device_module
from nanogpkant.machine.device import (
    bfloat16_is_fast,
    describe,
    peak_memory,
    resolve_device,
    resolve_dtype,
)

CPU = torch.device("cpu")


def test_auto_takes_what_is_there():
    best = "cuda" if torch.cuda.is_available() else "cpu"
    best = "mps" if torch.backends.mps.is_available() else best
    assert resolve_device("auto").type == best
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("name", ["toaster", "", "meta", "cpu:x"])
def test_what_is_no_device_is_refused(name):
    with pytest.raises(UsageError, match="must be auto, cpu, cuda"):
        resolve_device(name)


@pytest.mark.parametrize(("bf16_seconds", "expected"), [(1.0, "bfloat16"), (3.0, "float32")])
def test_bfloat16_is_chosen_where_it_is_measured_to_be_faster(monkeypatch, bf16_seconds, expected):
    times = {torch.bfloat16: bf16_seconds, torch.float32: 2.0}
    monkeypatch.setattr(device_module, "_matmul_seconds", lambda dtype: times[dtype])
    assert resolve_dtype("auto", CPU) == expected
    assert resolve_dtype("float32", CPU) == "float32"


def test_the_measurement_agrees_with_a_longer_one():
    def seconds(dtype):
        return device_module._matmul_seconds(dtype, size=1024, repeats=5)

    ratio = seconds(torch.float32) / seconds(torch.bfloat16)
    if not 1.2 < ratio < 1.9:  # near the line either answer is right
        assert bfloat16_is_fast() == (ratio > 1.5)


def test_float16_needs_cuda():
    with pytest.raises(UsageError, match="float16"):
        resolve_dtype("float16", CPU)


def test_peak_memory_counts_what_was_held():
    before = peak_memory(CPU)
    held = torch.ones(before // 4 + 25_000_000)  # float32: more than was ever held, by 100 MB
    del held
    assert peak_memory(CPU) - before > 80_000_000


def test_the_record_of_the_machine_is_plain_data():
    record = describe(CPU)
    assert record["versions"]["torch"] == torch.__version__
    assert record["threads"] == torch.get_num_threads()
