"""scalecom.keras on each back end: fit() on 1 and 3 ranks, and what its import says."""

import importlib.util
import subprocess

import pytest
from jobs import BIN, rank_environment

# Not imported here: its back end is a fact of the process.
pytestmark = pytest.mark.skipif(not all(map(importlib.util.find_spec, ("keras", "jax", "tensorflow"))),
                                reason="keras, jax or tensorflow is not installed")

BACKENDS = ("jax", "tensorflow", "torch")


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_claim_about_fit_holds(launch, backend, ranks):
    """In one job, of which the imports are a large part. The example has 2 ranks."""
    modules = ["programs.keras_training", "programs.keras_steps"]
    verdicts = launch(ranks, "programs.claims:check_modules", timeout=400,
                      arguments={"modules": modules, "limit_s": 380},
                      env={"KERAS_BACKEND": backend, "SCALECOM_STALL_SHUTDOWN_TIME_SECONDS": "40"})
    problems = [f"rank {rank}, {module}.{claim}:\n{problem}" for rank, verdict in enumerate(verdicts)
                for module in modules for claim, problem in verdict[module].items() if problem]
    assert not problems, "\n".join(problems)
    assert all(len(verdicts[0][module]) >= 8 for module in modules)


def _python(program, **variables):
    return subprocess.run([BIN / "python", "-c", program], capture_output=True, text=True, timeout=120,
                          env=rank_environment(variables))


def test_without_keras_the_import_says_what_to_install():
    result = _python("import sys; sys.modules['keras'] = None\nimport scalecom.keras")
    assert result.returncode == 1 and "pip install keras" in result.stderr


def test_another_back_end_and_an_old_keras_are_refused():
    result = _python("import keras; keras.backend.backend = lambda: 'openvino'\nimport scalecom.keras",
                     KERAS_BACKEND="jax")
    assert result.returncode == 1 and "KERAS_BACKEND to one of jax, tensorflow, torch" in result.stderr
    result = _python("import keras; keras.__version__ = '2.15.0'\nimport scalecom.keras",
                     KERAS_BACKEND="jax")
    assert result.returncode == 1 and "needs Keras 3" in result.stderr


def test_an_older_keras_is_warned_of():
    for version, is_warned in (("3.9.2", True), ("3.10.0", False)):
        result = _python(f"import keras; keras.__version__ = {version!r}\nimport scalecom.keras", KERAS_BACKEND="jax")
        told = f"Keras {version} is here; scalecom.keras was tested with 3.10" in result.stderr
        assert result.returncode == 0 and told == is_warned, result.stderr


def test_a_back_end_that_is_not_installed_is_named():
    result = _python("import sys; sys.modules['tensorflow'] = None\nimport scalecom.keras",
                     KERAS_BACKEND="tensorflow")
    assert result.returncode == 1 and "set KERAS_BACKEND" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("backend, compression", [
    ("jax", "scalecom"), ("torch", "none"), ("tensorflow", "scalecom"),
    *(pytest.param(*one, marks=pytest.mark.slow)
      for one in (("jax", "none"), ("torch", "scalecom"), ("tensorflow", "none")))])
def test_the_example_trains_and_keeps_the_ranks_equal(run_example, backend, compression):
    figures = run_example(2, "keras_fashion_mnist.py", "--compression", compression, "--epochs", "1",
                          "--steps", "60", env={"KERAS_BACKEND": backend})
    assert len(set(figures["parameter_checksums"])) == 1
    assert figures["test_accuracy"] > 0.6
    # The beginning sends the weights and the momentum, too.
    dense_bytes = 60 * 4 * 814090
    assert figures["bytes_sent"] < dense_bytes / 10 if compression == "scalecom" else (
        figures["bytes_sent"] > 0.9 * dense_bytes)
