"""Gradients of several backward passes of a tf.compat.v1.train.Optimizer, of which one step is made."""

import tensorflow as tf

from scalecom.variables import key_of


def _make_zero(shape, dtype):
    with tf.init_scope():  # Outside of a cond or a loop that is being made.
        return tf.compat.v1.Variable(
            tf.zeros(shape, dtype), trainable=False, use_resource=True, name="scalecom_accumulation",
            collections=[tf.compat.v1.GraphKeys.LOCAL_VARIABLES])


class GraphAccumulation:
    """In a graph of tf.compat.v1, where each run of what apply_gradients() returned is a pass. The sums and
    the number of passes are local variables: files have no step half-way, and broadcasts leave them out.
    passes: in a step. is_average: it is made of their average.
    """

    def __init__(self, passes, is_average, sparse_as_dense):
        self.passes = passes
        self.is_average = is_average
        self._sparse_as_dense = sparse_as_dense
        self._ends = {}  # By a variable's key: whether a run of compute_gradients() ends a step.

    def _as_dense(self, gradient, variable):
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        if not self._sparse_as_dense:
            raise ValueError(f"the gradient of {variable.name} is tf.IndexedSlices and backward_passes_per_step is "
                             f"{self.passes}: above 1 their sums are dense; give sparse_as_dense=True")
        return tf.convert_to_tensor(gradient)

    def add(self, gradients, variables, reduce):
        """Adds the gradients up. Returns, in the last pass of a step, what reduce(gradients, variables) makes of
        the sums; in others the sums so far."""
        if tf.compat.v1.executing_eagerly_outside_functions():
            raise ValueError(f"backward_passes_per_step is {self.passes}: above 1 a tf.compat.v1.train.Optimizer "
                             "needs a graph of tf.compat.v1; give a Keras optimizer")
        sums = [None if gradient is None else _make_zero(variable.shape, gradient.dtype)
                for gradient, variable in zip(gradients, variables)]
        places = [place for place, total in enumerate(sums) if total is not None]
        count = _make_zero([], tf.int32)
        added = [sums[place].assign_add(self._as_dense(gradients[place], variables[place]), read_value=False)
                 for place in places]
        with tf.control_dependencies(added):
            is_end = tf.equal(count.assign_add(1), self.passes)

        def in_places(values):
            values = iter(values)
            return [None if total is None else next(values) for total in sums]

        def end_step():
            totals = (sums[place].read_value() for place in places)
            if self.is_average:
                totals = (total / self.passes for total in totals)
            step = reduce(in_places(totals), variables)
            step = [step[place] for place in places]
            with tf.control_dependencies(step):
                cleared = [total.assign(tf.zeros(total.shape, total.dtype), read_value=False)
                           for total in (count, *(sums[place] for place in places))]
            with tf.control_dependencies(cleared):
                return [tf.identity(one) for one in step]

        step = tf.cond(is_end, end_step, lambda: [sums[place].read_value() for place in places]) if places else []
        self._ends.update((key_of(variable), is_end) for variable in variables)
        return in_places(step)

    def end_pass(self, pairs, take_step, global_step, name):
        """The operation of a pass with these (gradient, variable): take_step() at the end of a step, which counts
        global_step, as other passes do here."""
        ends = {id(end): end for end in (self._ends.get(key_of(variable)) for _, variable in pairs)}
        if len(ends) != 1 or None in ends.values():
            names = ", ".join(one.name for _, one in pairs)
            raise ValueError(f"apply_gradients() is given pairs of {names}, which are not of one "
                             "compute_gradients() of this optimizer: with backward_passes_per_step above "
                             "1 give it what one call of that returned")
        is_end, = ends.values()
        count = tf.no_op if global_step is None else lambda: tf.group(global_step.assign_add(1))
        trained = tf.compat.v1.get_collection_ref(tf.compat.v1.GraphKeys.TRAIN_OP)
        others = list(trained)
        run = tf.group(tf.cond(is_end, lambda: tf.group(take_step()), count), name=name)
        trained[:] = [*others, run]  # And not what is inside of the condition, which cannot be run by itself.
        return run
