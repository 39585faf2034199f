"""Elastic training with TensorFlow: ``hvd.elastic``."""

import tensorflow as tf

from scalecom import _library, elastic
from scalecom.accumulation import forget_steps
from scalecom.elastic import ObjectState
from scalecom.exceptions import HorovodInternalError
from scalecom.tensorflow.operations import ERRORS
from scalecom.variables import ModelState, VariablesState

__all__ = ["ObjectState", "TensorFlowKerasState", "TensorFlowState", "run"]


def find_failure(error):
    """As scalecom.elastic.find_failure, also for errors of TensorFlow's operations."""
    if not isinstance(error, tf.errors.OpError):
        return elastic.find_failure(error)
    code = elastic.session_code()
    if code == _library.OK and "scalecom" in str(error).lower():
        code = next((code for code, kind in ERRORS.items() if isinstance(error, kind)), code)
    return None if code == _library.OK else HorovodInternalError(error.message, code=code)


def run(func):
    return elastic.run(func, find_failure)


run.__doc__ = elastic.run.__doc__


class TensorFlowState(VariablesState):
    """A list of tf.Variables by their values, the residuals of their gradients, and other attributes by
    copies. Make it after init().

    Residuals are found by the variables' names, and are taken for those of an average: after a reset of a
    tape or an optimizer with op=Sum they are off by the ratio of the numbers of ranks.
    variables: tf.compat.v1.global_variables() by default, which is empty outside of a graph. session:
    for a graph of tf.compat.v1, the one that has their values; the default session there.
    """

    def __init__(self, variables=None, session=None, **kwargs):
        variables = tf.compat.v1.global_variables() if variables is None else variables
        if session is None and not tf.executing_eagerly():
            session = tf.compat.v1.get_default_session()
            if session is None:
                raise ValueError("session is None and there is no default one; give the session that has "
                                 "the variables' values")
        self.variables, self.session = variables, session
        super().__init__(variables, **kwargs)

    def _read(self, variable):
        return super()._read(variable) if self.session is None else self.session.run(variable)

    def _write(self, variable, value):
        if self.session is None:
            super()._write(variable, value)
        else:
            variable.load(value, self.session)

    def reset(self):
        """Forgets the backward passes of a step half-way, of all optimizers: newcomers have none."""
        forget_steps()


class TensorFlowKerasState(ModelState):
    __doc__ = ModelState.__doc__ + "\n    backend is Horovod's.\n    "

    def __init__(self, model, optimizer=None, backend=None, **kwargs):
        super().__init__(model, optimizer, **kwargs)
