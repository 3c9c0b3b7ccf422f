"""The real thing: processes of their own."""

import os
import time

import pytest
import torch

from nanogpkant.measure.peak import ChildError, extra_peak, in_a_child

CPU = torch.device("cpu")
MEGABYTE = 2**20


def _hold_and_release() -> None:
    torch.ones(100 * MEGABYTE // 4)  # gone at once: a peak, not what is left


def _peak() -> int:
    torch.ones(200 * MEGABYTE // 4)  # before the task: not its own
    return extra_peak(_hold_and_release, CPU)


def _fail() -> None:
    raise ValueError("as | it\nhappens")


def test_the_peak_is_the_tasks_own():
    assert 95 * MEGABYTE < in_a_child(_peak) < 130 * MEGABYTE  # Linux counts in batches of pages


def test_what_goes_wrong_in_a_child_is_one_line():
    with pytest.raises(ChildError, match=r"^as \| it happens$"):
        in_a_child(_fail)
    with pytest.raises(ChildError, match="died"):
        in_a_child(os._exit, 1)


def test_a_child_that_hangs_is_ended():
    started = time.monotonic()
    with pytest.raises(ChildError, match="not done after 0 s"):
        in_a_child(time.sleep, 60, limit=0.2)
    assert time.monotonic() - started < 30
