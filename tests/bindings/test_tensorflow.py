"""scalecom.tensorflow, on one process and on 1 to 3 ranks under mpirun."""

import pathlib
import sys
import warnings

import pytest
from jobs import HERE, rank_environment, run_limited
from programs.claims import names

tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


@pytest.mark.parametrize("ranks", [0, 2, 3])
@pytest.mark.parametrize("claim", names("programs.tensorflow_ops"))
def test_collectives(claims, ranks, claim):
    claims.check(ranks, "programs.tensorflow_ops", claim)


@pytest.mark.parametrize("ranks", [0, 2, 3])
@pytest.mark.parametrize("claim", names("programs.tensorflow_training"))
def test_training(claims, ranks, claim):
    claims.check(ranks, "programs.tensorflow_training", claim)


def test_our_declarations_are_those_of_the_installed_headers():
    headers = pathlib.Path(tensorflow.sysconfig.get_include())
    command = ["g++", "-std=c++20", "-fsyntax-only", "-I", headers, "-I", HERE.parents[1],
               HERE / "scripts" / "tensorflow_api.cpp"]
    status, output = run_limited(command, 120)
    assert status == 0, output


def test_without_tensorflow_the_import_says_what_to_install(tmp_path):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('none')")
    status, output = run_limited([sys.executable, "-c", "import scalecom.tensorflow"], 60,
                                 env=rank_environment({"PYTHONPATH": str(tmp_path)}))
    assert status != 0 and "ImportError: scalecom.tensorflow needs TensorFlow: pip install" in output


def test_an_untested_version_is_warned_of():
    from scalecom.tensorflow.versions import TESTED, warn_of_version
    with pytest.warns(UserWarning, match=f"TensorFlow 2.40.1 is here.*{TESTED}"):
        warn_of_version("2.40.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_version("2.16.2")
        warn_of_version(tensorflow.__version__)
