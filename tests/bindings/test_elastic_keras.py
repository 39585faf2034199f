"""Keras and TensorFlow in elastic jobs: fit() goes on without a killed rank."""

import importlib.util

import numpy
import pytest
from jobs import HERE
from scripts import elastic_keras
from test_elastic import check_resets, ended, start  # noqa: F401

pytestmark = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("keras", "tensorflow"))),
                                reason="keras or tensorflow is not installed")

STEPS = 40


def run(start, backend, **training):
    """The ended job's lines, of which rank 1 of 3 was killed before step 13; and its output."""
    job = start("-np", "3", "--min-np", "2", "--slot-failures", "1", limit=200.0, hold=13,
                steps=STEPS, script=HERE / "scripts" / "elastic_keras.py",
                env={"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}, **training)
    killed_at = job.kill_held_rank(1, 3)
    job.steps_of(size=2, since=killed_at)
    assert job.end() == 0, job.output()
    lines = job.lines()
    check_resets(lines)
    assert [line["ended"] for line in ended(lines)] == [STEPS, STEPS]
    assert len({line["epoch"] for line in ended(lines)}) == 1
    return lines, job.output()


def reference(width):
    """The losses of dense training, step by step."""
    inputs, targets, rate = elastic_keras.data(width)
    weights, bias = numpy.zeros(width), 0.0
    steps, losses = [numpy.zeros(width), 0.0], []
    for _ in range(STEPS):
        errors = inputs @ weights + bias - targets
        losses.append(float(numpy.square(errors).mean()))
        gradients = 2 * inputs.T @ errors / len(errors), 2 * errors.mean()
        steps = [elastic_keras.MOMENTUM * step - rate * gradient
                 for step, gradient in zip(steps, gradients)]
        weights, bias = weights + steps[0], bias + steps[1]
    return losses


@pytest.mark.parametrize("backend, width", [("tensorflow", 8), ("jax", 4096)])
def test_fit_goes_on_without_a_killed_rank(start, backend, width):  # noqa: F811
    pytest.importorskip(backend)
    lines, _ = run(start, backend, width=width, compresses=False)
    expected = reference(width)
    done = [line for line in lines if "step" in line]
    assert {line["step"] for line in done} == set(range(STEPS))
    for line in done:
        assert line["loss"] == pytest.approx(expected[line["step"]], rel=1e-3), line


def test_what_survivors_owe_stays_owed(start):  # noqa: F811
    """A residual of 1 in 3 ranks stands for 1/3 of the average, and so does one of 2/3 in 2."""
    lines, output = run(start, "torch", width=2048, compresses=True)
    begins = [line for line in lines if "begins" in line and line["size"] == 2]
    assert len(begins) == 2
    for begin in begins:
        before = [line["residual"] for line in lines if line.get("step") == begin["begins"] - 1
                  and line["pid"] == begin["pid"]]
        assert abs(before[0]) > 0.1
        assert begin["residual"] == pytest.approx(before[0] * 2 / 3, rel=1e-4)
    assert "the residuals of 1 of 3 ranks are lost with them" in output
    first, second = (line["weights"] for line in ended(lines))
    assert first == second
