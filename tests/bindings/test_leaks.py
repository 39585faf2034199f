"""Thousands of steps leave nothing behind: no memory, no descriptors, no threads, no objects."""

import pytest

TENSORS = 200
PARTS = 10
# The allocator keeps pieces of its own; 10,000 steps that kept a byte of each tensor would show.
GROWTH_MAX = 1 << 20
# What is remembered of calls without a name fills its bound slowly; here it is full early.
REMEMBERED = {"SCALECOM_CACHE_CAPACITY": "512"}
SETTLED = 3  # Parts after which the first ones' buffers, caches and pools have their size.


def _steady_growth(sizes):
    """Without the largest step of these: an allocator takes some MB at once, once, at any time; what is left
    behind is in all of them."""
    steps = [later - earlier for earlier, later in zip(sizes, sizes[1:])]
    return sum(steps) - max(steps)


@pytest.mark.parametrize("steps", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_steps_leave_nothing_behind(launch, steps):
    values = launch(2, "programs.leaks:train",
                    arguments={"steps": steps, "tensors": TENSORS, "parts": PARTS},
                    env=REMEMBERED, timeout=900)
    for left in values:
        settled, last = left[SETTLED - 1], left[-1]
        assert _steady_growth([one["bytes"] for one in left[SETTLED - 1:]]) <= GROWTH_MAX, left
        assert last["descriptors"] == settled["descriptors"], left
        assert last["threads"] == settled["threads"], left
        assert last["objects"] - settled["objects"] < 100, left
