"""Claims about scalecom.tensorflow where TensorFlow takes no operations: they wait in Python. Each
function is called on every rank, in this order."""

import pytest
import tensorflow as tf


def _refuse(path):
    raise tf.errors.NotFoundError(None, None, "no such operations")


tf.load_op_library = _refuse

import scalecom.tensorflow as hvd  # noqa: E402
from programs import tensorflow_ops  # noqa: E402
from scalecom._library import Ticket  # noqa: E402
from scalecom.tensorflow import operations  # noqa: E402


def it_is_told_why():
    assert "no such operations" in operations.problem


def the_collectives_are_the_same():
    for claim in ("allreduce_sums_every_number_type", "allreduce_averages_scales_and_takes_extremes",
                  "scalars_and_empty_tensors_are_reduced", "a_tf_function_reduces_again_and_again",
                  "a_constant_is_reduced_at_each_call", "a_group_is_one_submit",
                  "a_bad_member_is_refused_and_nothing_is_submitted",
                  "a_refused_call_without_a_name_may_be_repeated",
                  "gradients_are_those_of_the_contract",
                  "a_graph_of_gradients_may_outlive_its_ranks", "gathers_take_other_first_dimensions",
                  "broadcasts_give_the_roots_values", "rows_are_exchanged",
                  "parts_of_the_reduction_are_scattered", "sparse_slices_are_gathered",
                  "facts_are_read_when_they_run", "process_sets_have_operations_of_their_own",
                  "objects_travel", "torch_has_the_same_session"):
        getattr(tensorflow_ops, claim)()


def all_of_several_tensors_are_waited_for_where_the_first_fails():
    if hvd.size() == 1:
        return
    waits, wait = [], Ticket.wait
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Ticket, "wait", lambda ticket: waits.append(ticket) or wait(ticket))
        with pytest.raises(tf.errors.FailedPreconditionError, match="several.0"):
            hvd.broadcast_([tf.Variable(tf.ones(2 + hvd.rank())), tf.Variable(tf.ones(2))], 0, name="several")
    assert len(waits) == 2


def eager_errors_are_the_same():
    tensorflow_ops.before_init_an_operation_says_so()
