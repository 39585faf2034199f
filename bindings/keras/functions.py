"""A model's variables, the same on every rank, and models from files."""

import keras

from scalecom import arrays
from scalecom._library import own_name
from scalecom.compression import ScaleComCompressor
from scalecom.keras.backend import adapter
from scalecom.keras.optimizer import DistributedOptimizer
from scalecom.keras_optimizer import is_distributed
from scalecom.process_sets import global_process_set
from scalecom.reductions import Average
from scalecom.saved_residuals import files_of
from scalecom.variables import build_optimizer, fetch_jax_state, key_of, shapes_of, variables_of

_VARIABLES = own_name("variables of the model and its optimizer (a broadcast)")


def _tensor(value):
    """As the adapter takes it: torch's takes tensors alone."""
    is_to_be_made = keras.backend.backend() == "torch" and not keras.ops.is_tensor(value)
    return keras.ops.convert_to_tensor(value) if is_to_be_made else value


def allreduce(value, name=None, average=None, prescale_factor=1.0, postscale_factor=1.0, op=None,
              compression=None):
    """The reduction of a value (a tensor, number, list or array of numpy) over all ranks, as a tensor of the back
    end. op: Average by default. dtypes, average and errors are those of the back end's adapter."""
    return adapter.allreduce(_tensor(value), average=average, name=name, op=op, prescale_factor=prescale_factor,
                             postscale_factor=postscale_factor,
                             compression=adapter.Compression.none if compression is None else compression)


def allgather(value, name=None):
    """The ranks' values of one dimension or more, concatenated along the first; on JAX all are of one shape."""
    return adapter.allgather(_tensor(value), name=name)


def broadcast(value, root_rank, name=None):
    """root_rank's value, a tensor of the back end, on every rank; all give one shape and dtype."""
    return adapter.broadcast(_tensor(value), root_rank, name=name)


def reducescatter(value, name=None, op=Average):
    """This rank's rows of the reduction of a value over all ranks, by Average or Sum."""
    return adapter.reducescatter(_tensor(value), name=name, op=op)


def broadcast_global_variables(root_rank, model, local_variables=()):
    """Gives the weights of a built model, and its optimizer's variables, root_rank's values. local_variables,
    and states of random generators, stay each rank's own; a step half-way is given up on all ranks. Residuals go on at
    root_rank's steps: where a rank's are of others they begin with zero, and a warning says so."""
    if not model.built:
        raise ValueError("the model is not built, so it has no weights yet; call model.build(input_shape) first, or "
                         "give fit() a BroadcastGlobalVariablesCallback, which waits for the first batch")
    fetch_jax_state(model)
    own = set(map(key_of, local_variables))
    variables = [weight for weight in model.weights if key_of(weight) not in own]
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        build_optimizer(optimizer, model.trainable_variables)
        if hasattr(optimizer, "forget_step"):
            optimizer.forget_step()
        variables += variables_of(optimizer)
    arrays.check_counts(len(variables), "variables of the model and its optimizer")
    values = arrays.broadcast([f"broadcast.{_VARIABLES}.{place}" for place in range(len(variables))],
                              [keras.ops.convert_to_numpy(variable) for variable in variables],
                              root_rank)
    for variable, value in zip(variables, values):
        variable.assign(value)
    if is_distributed(optimizer):
        ranks = optimizer._scalecom.process_set
        arrays.residuals.share_steps(shapes_of(optimizer) if ranks.included() else {}, ranks, root_rank,
                                     arrays.broadcast_object)


def load_residuals(model, filepaths):
    """Gives a model that was loaded what the ranks of a former job, of any number, still owed.

    filepaths: of all of them, as model.save() or save_weights() wrote them at one moment. Where there are as
    many ranks now each takes up its own residuals; else all take up the mean (times the former by the present
    number of ranks with op=Sum), which stands for the same. All ranks call it.
    """
    if not is_distributed(model.optimizer) or not model.optimizer.built:
        raise ValueError("the model's optimizer is not distributed, or not built: make it "
                         "hvd.DistributedOptimizer(...) and call optimizer.build(model.trainable_variables)")
    model.optimizer.scalecom_residuals.load_files(files_of(filepaths))


def load_model(filepath, custom_optimizers=None, custom_objects=None, compression=None, legacy_opts=False,
               **distributed):
    """keras.models.load_model(), with the model's optimizer made distributed.

    custom_optimizers: classes of optimizers beside Keras's own. compression and `distributed`:
    arguments of DistributedOptimizer. legacy_opts is Horovod's. With Compression.scalecom residuals
    are taken up, too: where they are to go on, each rank saves a file of its own, and loads it, or
    gives a list of the files of all ranks in the place of filepath, from which any number of ranks
    goes on: see load_residuals().
    """
    files = files_of(filepath)
    rank = distributed.get("process_set", global_process_set).rank() if len(files) > 1 else 0
    own = files[(rank or 0) % len(files)]
    known = {kind.__name__: kind for kind in custom_optimizers or ()}
    model = keras.models.load_model(own, custom_objects={**known, **(custom_objects or {})})
    if getattr(model, "optimizer", None) is not None:
        DistributedOptimizer(model.optimizer, compression=compression, **distributed)
        if not isinstance(compression, ScaleComCompressor):
            return model
        if isinstance(filepath, (list, tuple)):
            load_residuals(model, files)
        else:
            model.load_weights(own)  # Again, for what the plain optimizer has no place for.
    return model
