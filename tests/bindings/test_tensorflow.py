"""scalecom.tensorflow, on one process and on 1 to 3 ranks under mpirun."""

import json
import pathlib
import sys
import warnings

import pytest
from conftest import mpirun_command
from jobs import HERE, rank_environment, run_limited
from programs.claims import names

tensorflow = pytest.importorskip("tensorflow", reason="TensorFlow is not installed")


def run_script(script, folder):
    """One process, with Keras on TensorFlow; returns its exit code and output."""
    return run_limited([sys.executable, "-c", script], 60, cwd=folder,
                       env=rank_environment({"KERAS_BACKEND": "tensorflow"}))


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
    from scalecom.versions import TESTED, warn_of_version
    with pytest.warns(UserWarning, match=f"TensorFlow 2.40.1 is here.*{TESTED['tensorflow'].words}"):
        warn_of_version("tensorflow", "2.40.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_version("tensorflow", "2.16.2")
        warn_of_version("tensorflow", tensorflow.__version__)


@pytest.mark.parametrize("claim", ["it_is_told_why", "the_collectives_are_the_same",
                                   "all_of_several_tensors_are_waited_for_where_the_first_fails",
                                   "eager_errors_are_the_same"])
def test_operations_that_wait_in_python(claims, claim):
    claims.check(3, "programs.tensorflow_blocking", claim)


def test_the_example_trains_dense_and_compressed(tmp_path):
    figures = {}
    for compression in ("none", "scalecom"):
        path = tmp_path / f"{compression}.json"
        status, output = run_limited(
            [*mpirun_command(2), sys.executable,
             HERE.parents[1] / "docs" / "examples" / "tensorflow_fashion_mnist.py", "--steps", "50",
             "--compression", compression, "--json", path], 150, env=rank_environment(), cwd=tmp_path)
        assert status == 0, output
        figures[compression] = json.loads(path.read_text())
        assert figures[compression]["test_accuracy"] > 0.5, output
        assert len(set(figures[compression]["parameter_checksums"])) == 1
    assert figures["scalecom"]["bytes_sent"] < figures["none"]["bytes_sent"] / 20


def test_horovods_names_are_served(tmp_path):
    script = ("import scalecom.horovod; scalecom.horovod.install()\n"
              "import horovod.tensorflow as hvd, horovod.tensorflow.mpi_ops as ops\n"
              "from horovod.tensorflow.compression import Compression\n"
              "from horovod.tensorflow.functions import broadcast_variables\n"
              "from horovod.tensorflow.util import refs_to_vars, vars_to_refs\n"
              "import tensorflow as tf\n"
              "hvd.init(); tf.config.threading.set_inter_op_parallelism_threads(2)\n"
              "assert hvd.allreduce(tf.ones(1)).numpy() == ops.size() == ops._basics.size() == 1\n"
              "assert hvd._executing_eagerly() is hvd.util._executing_eagerly() is True\n"
              "one = tf.Variable(1); assert refs_to_vars(refs=vars_to_refs(vars=[one]))[0] is one\n"
              "assert hvd.join() == 0\n"
              f"import sys; sys.path.insert(0, {str(HERE / 'programs')!r}); import horovod_api\n"
              "assert horovod_api.missing(horovod_api.TENSORFLOW) == [], horovod_api.missing(horovod_api.TENSORFLOW)\n"
              "assert hvd._make_subgraph(hvd._cache(lambda x: x + hvd._executing_eagerly()))(1) == 1\n"
              "import horovod.keras, horovod.tensorflow.keras as named\n"
              "from horovod.keras.callbacks import MetricAverageCallback\n"
              "from horovod.tensorflow.keras.callbacks import BroadcastGlobalVariablesCallback\n"
              "assert named.callbacks.MetricAverageCallback is MetricAverageCallback\n"
              "import horovod.tensorflow.elastic, horovod.tensorflow.keras.elastic\n"
              "from horovod.keras.elastic import CommitStateCallback, KerasState\n"
              "assert named.elastic.KerasState is KerasState\n"
              "value = tf.Variable(1.0); state = hvd.elastic.TensorFlowState([value], step=0)\n"
              "value.assign(2.0); state.restore(); assert value.numpy() == 1.0 and state.step == 0\n"
              "assert named.DistributedOptimizer is horovod.keras.DistributedOptimizer\n"
              "try: hvd.broadcast_global_variables(0)\n"
              "except RuntimeError as error: print('said', error)\n")
    status, output = run_script(script, tmp_path)
    assert status == 0 and "said broadcast_global_variables() needs a graph" in output, output


def test_a_graph_of_version_1_broadcasts_without_eager_execution(tmp_path):
    script = ("import tensorflow as tf; tf.compat.v1.disable_eager_execution()\n"
              "import scalecom.tensorflow as hvd\n"
              "hvd.init()\n"
              "variable = tf.compat.v1.get_variable('v', initializer=float(hvd.rank()))\n"
              "sent = hvd.broadcast_variables([variable], root_rank=1)\n"
              "with tf.compat.v1.Session() as session:\n"
              "    session.run(tf.compat.v1.global_variables_initializer())\n"
              "    session.run(sent)\n"
              "    print(f'value {session.run(variable)}')  # In one write: ranks share the pipe.\n"
              "hook = hvd.BroadcastGlobalVariablesHook(0)\n"
              "with tf.compat.v1.train.MonitoredSession(hooks=[hook]) as session:\n"
              "    print(f'hooked {session.run(variable)}')\n"
              "from scalecom.tensorflow import operations\n"
              "assert operations.problem is None, operations.problem\n")
    status, output = run_limited([*mpirun_command(2), sys.executable, "-c", script], 90,
                                 env=rank_environment(), cwd=tmp_path)
    assert status == 0 and output.count("value 1.0") == 2, output
    assert output.count("hooked 0.0") == 2, output


def test_an_elastic_state_takes_residuals_into_a_new_session_and_no_step_half_way(tmp_path):
    script = ("import keras, numpy, tensorflow as tf\n"
              "import scalecom.tensorflow as hvd\n"
              "from scalecom.arrays import residuals\n"
              "from scalecom.residuals import compression_steps\n"
              "hvd.init()\n"
              "weight = tf.Variable(tf.zeros([3]), name='weight')\n"
              "optimizer = hvd.DistributedOptimizer(keras.optimizers.SGD(1.0), backward_passes_per_step=2)\n"
              "state = hvd.elastic.TensorFlowState([weight])\n"
              "residuals.load({'weight': numpy.arange(3.0), 'other': numpy.ones(2)}, {'weight': 7})\n"
              "state.save()\n"
              "optimizer.apply([tf.ones(3)], [weight])\n"
              "hvd.shutdown(); hvd.init(); state.on_reset(); state.sync()\n"
              "assert residuals.state()['weight'].tolist() == [0, 1, 2]\n"
              "assert compression_steps() == {'weight': 7}\n"
              "optimizer.apply([tf.ones(3)], [weight]); assert weight.numpy().tolist() == [0] * 3\n"
              "optimizer.apply([tf.ones(3)], [weight]); assert weight.numpy().tolist() == [-2] * 3\n")
    status, output = run_script(script, tmp_path)
    assert status == 0 and "the residuals of other are not part of the elastic state" in output, output


def test_checkpoints_of_former_ranks_need_a_session_and_a_path(tmp_path):
    script = ("import tensorflow as tf\n"
              "import scalecom.tensorflow as hvd\n"
              "weight = tf.Variable(tf.zeros([8, 8]), name='weight')\n"
              "kept = hvd.SavedResiduals([weight])\n"
              "def refused(paths):\n"
              "    try: kept.load_checkpoints(paths)\n"
              "    except ValueError as error: print('said', error)\n"
              "refused(['one'])\n"
              "hvd.init()\n"
              "refused([])\n"
              "hvd.allreduce(weight, name='weight', compression=hvd.Compression.scalecom(4))\n"
              "kept.load_checkpoints(tf.train.Checkpoint(residuals=kept).write('one'))\n")
    status, output = run_script(script, tmp_path)
    assert status == 0 and "said scalecom has not been initialized" in output, output
    assert "said the list of files is empty" in output, output
