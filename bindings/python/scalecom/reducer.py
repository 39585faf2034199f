"""The reduction of a step's gradients: what the tapes and optimizers of TensorFlow and Keras share."""

from scalecom.compression import ScaleComCompressor, check_compression, gradient_options
from scalecom.name_owners import claim
from scalecom.process_sets import global_process_set, used
from scalecom.reductions import Adasum, Average, Sum, check_predivide_factor, word_of
from scalecom.variables import check_groups, key_of, names_of


class GradientReducer:
    """How gradients are reduced; see DistributedOptimizer for the arguments. A framework's subclass says how
    its tensors are. ops: those that are allowed."""

    def __init__(self, compression, op=Average, predivide_factor=1.0, groups=0,
                 process_set=global_process_set, scale_local_gradients=True, sparse_as_dense=False,
                 ops=(Average, Sum)):
        check_compression(compression)
        if op not in ops:
            raise ValueError(f"op is {word_of(op)}; allowed are {', '.join(map(word_of, ops))}")
        if op == Adasum and isinstance(compression, ScaleComCompressor):
            raise ValueError("compression is Compression.scalecom; it works with op Average and Sum, not "
                             "with Adasum, which needs every element")
        check_predivide_factor(predivide_factor, op)
        check_groups(groups)
        used(process_set)  # Raises ValueError for what is none in use.
        self.compression = compression
        self.op = op
        self.process_set = process_set
        self._predivide_factor = float(predivide_factor)
        self._scale_local_gradients = scale_local_gradients
        self._sparse_as_dense = sparse_as_dense
        self._local = {}  # By their keys, which may be those of others where the variables are gone.
        self._local_layers = []
        self._has_checked = not isinstance(compression, ScaleComCompressor)

    def _reduce_all(self, gradients, names, op, prescale_factor, postscale_factor):
        """The reduced gradients, in their order, all submitted at once. What is sparse sees no factors,
        which an average cancels."""
        raise NotImplementedError

    def _prepare(self, gradient, variable):
        """The gradient as _reduce_all() takes it."""
        del variable
        return gradient

    def _divide_by_size(self, gradient):
        """The gradient by the number of ranks, also where that is another one when a graph runs."""
        return gradient / self.process_set.size()

    def is_like(self, other):
        """Whether they reduce alike; variables that are registered as local ones are not looked at."""
        return self._settings() == other._settings()

    def _settings(self):
        choice = self.compression
        if isinstance(choice, ScaleComCompressor):
            choice = {name: value for name, value in vars(choice).items() if name != "_options"}
        return (choice, self.op, self.process_set, self._predivide_factor, self._scale_local_gradients,
                self._sparse_as_dense)

    def _takes_part(self):
        return self.process_set is global_process_set or self.process_set.included() is not False

    def register_local_var(self, variable):
        self._local[key_of(variable)] = variable

    def register_local_layers(self, layers):
        """The gradients of what a Keras layer or several train stay this rank's own, also where they are to be
        built yet."""
        layers = [] if layers is None else list(layers) if isinstance(layers, (list, tuple, set)) else [layers]
        others = [layer for layer in layers if not hasattr(layer, "trainable_weights")]
        if others:
            raise ValueError(f"local_layers has {others[0]!r}; allowed are Keras layers")
        self._local_layers += layers

    def _local_keys(self):
        return {*self._local, *(key_of(variable) for layer in self._local_layers
                                for variable in layer.trainable_weights)}

    def reduced_of(self, variables):
        """Those whose gradients are not this rank's own."""
        local = self._local_keys()
        return [variable for variable in variables if key_of(variable) not in local]

    def scale_local(self, gradients, variables):
        """The gradients, those of local variables as an average has them of which one rank alone has the
        variable: divided by the number of ranks, unless that is not wanted. On a rank outside of the process set
        all stay as they are, here and below."""
        if not self._scale_local_gradients or not self._takes_part():
            return list(gradients)
        local = self._local_keys()
        return [gradient if gradient is None or key_of(variable) not in local
                else self._divide_by_size(gradient) for gradient, variable in zip(gradients, variables)]

    def reduce(self, gradients, variables, names=None):
        """The reduced gradients, in their order; those of local variables as scale_local() has them. None
        stays None: it is None on all ranks. names: the variables' where not given. ValueError where a pattern of
        rates matches none of them."""
        if not self._takes_part():
            return list(gradients)
        gradients, names = self.scale_local(gradients, variables), names or names_of(variables)
        if not self._has_checked:
            self.compression.check_patterns(names)
            self._has_checked = True
        places, local = [], self._local_keys()
        for place, (gradient, variable) in enumerate(zip(gradients, variables)):
            if gradient is not None and key_of(variable) not in local:
                gradients[place] = self._prepare(gradient, variable)
                places.append(place)
                self._claim(names[place], gradients[place], variable)
        reduced = self._reduce_all([gradients[place] for place in places],
                                   [names[place] for place in places], self.op,
                                   1.0 / self._predivide_factor, self._predivide_factor)
        for place, one in zip(places, reduced):
            gradients[place] = one
        return gradients

    def _claim(self, name, gradient, variable):
        # What is no variable is another one in each step.
        if hasattr(variable, "assign") and gradient_options(self.compression, name, gradient) is not None:
            # Graphs are traced by some ranks alone, too.
            claim(self.process_set, name, variable, variable, "by their layers, as keras.layers.Dense(8, "
                  "name=\"critic_1\"), or their own, as tf.Variable(value, name=\"critic/kernel\")", may_refuse=False)

    def reduce_changes(self, changes, variables):
        """The Adasum of what steps have changed of the variables (arXiv 2006.02924)."""
        if not self._takes_part():
            return list(changes)
        return self._reduce_all(changes, names_of(variables), Adasum, 1.0, 1.0)
