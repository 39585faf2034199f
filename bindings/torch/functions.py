"""Parameters, optimizer state and Python objects, the same on every rank."""

import ctypes

import torch

from scalecom import basics, pickling
from scalecom._library import own_name
from scalecom.reductions import Adasum
from scalecom.torch import mpi_ops, submit
from scalecom.torch.parameters import check_is_optimizer, check_names
from scalecom.torch.residuals import residuals

_STATE = own_name("optimizer state (broadcast_optimizer_state())")


def _named_tensors(params):
    if isinstance(params, dict):
        items = sorted(params.items())
    elif isinstance(params, list) and all(isinstance(item, torch.Tensor) for item in params):
        items = [(f"parameter.{place}", item) for place, item in enumerate(params)]
    else:
        try:
            items = list(params)  # module.named_parameters()
        except TypeError:
            items = None
        if items is None or not all(isinstance(item, tuple) and len(item) == 2 for item in items):
            raise ValueError(f"params is {type(params).__name__}; give a state_dict, the pairs "
                             "of named_parameters(), or a list of tensors")
    # Found here, as the second of a name is refused in flight only where the first still is on its way.
    check_names("params", [name for name, _ in items])
    return [(name, value) for name, value in items if isinstance(value, torch.Tensor)]


def broadcast_parameters(params, root_rank):
    """Gives every rank root_rank's values, in place. `params`: model.state_dict(),
    model.named_parameters(), or a list of tensors, in one order on every rank."""
    named = _named_tensors(params)
    targets = [tensor.detach() for _, tensor in named]
    buffers = [submit.contiguous(target) for target in targets]
    mpi_ops.broadcast_all_([name for name, _ in named], buffers, root_rank)
    for target, buffer in zip(targets, buffers):
        if buffer.data_ptr() != target.data_ptr():
            target.copy_(buffer)


def _tensor_of(packed):
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def _unpack(values):
    return pickling.unpack(ctypes.string_at(values.data_ptr(), values.numel()))  # numpy() needs numpy.


def broadcast_object(obj, root_rank=0, name=None, process_set=None):
    """root_rank's object, on every rank; it is pickled: ValueError on all ranks where it cannot be."""
    name = name or "broadcast_object"
    is_root = basics.rank() == root_rank
    packed = pickling.pack(obj, root_rank) if is_root else b""
    values = _tensor_of(packed) if is_root else torch.empty(0, dtype=torch.uint8, device="cpu")
    size = torch.tensor([values.numel()], device="cpu")
    mpi_ops.broadcast_(size, root_rank, f"{name}.object_size", process_set)
    if not is_root:
        values = torch.empty(int(size), dtype=torch.uint8, device="cpu")
    mpi_ops.broadcast_(values, root_rank, f"{name}.object", process_set)
    return pickling.sent(obj, packed) if is_root else _unpack(values)


def allgather_object(obj, name=None, process_set=None):
    """The objects of all ranks in rank order; they are pickled: ValueError on all ranks where one
    cannot be."""
    name = name or "allgather_object"
    values = _tensor_of(pickling.pack(obj, basics.rank()))
    size = torch.tensor([values.numel()], device="cpu")
    sizes = mpi_ops.allgather(size, f"{name}.object_size", process_set)
    everything = mpi_ops.allgather(values, f"{name}.object", process_set)
    return [_unpack(part) for part in everything.split(sizes.tolist())]


class _TensorPlace:
    """Stands for a tensor while the structure around it travels pickled."""

    def __init__(self, tensor):
        self.shape = tuple(tensor.shape)
        self.dtype = tensor.dtype


def _rebuilt(value, change):
    """A dict, list or tuple of what change() makes of the items; anything else itself."""
    if isinstance(value, dict):
        return {key: change(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [change(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return value


def _take_tensors(value, tensors):
    if not isinstance(value, torch.Tensor):
        return _rebuilt(value, lambda item: _take_tensors(item, tensors))
    value = value.detach().cpu()
    if value.layout != torch.strided:
        return value  # Sparse ones are pickled.
    tensors.append(submit.contiguous(value))
    submit.view(tensors[-1])  # Raises for what cannot travel.
    return _TensorPlace(value)


def _take_state(optimizer, tensors):
    """The optimizer's state with its tensors taken out; where this fails, what tells all ranks so."""
    try:
        state = optimizer.state_dict()
        state.pop("scalecom", None)
        return _take_tensors(state, tensors)
    except Exception as error:
        return pickling.Refusal(f"the optimizer state of rank {basics.rank()} cannot be sent "
                                f"({type(error).__name__}: {error}); its state_dict() must succeed, with "
                                "tensors that broadcast() takes or sparse ones")


def _put_tensors(value, tensors):
    if isinstance(value, _TensorPlace):
        return next(tensors)
    return _rebuilt(value, lambda item: _put_tensors(item, tensors))


def _places(value):
    if isinstance(value, _TensorPlace):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _places(item)


def _fill_gradients(optimizer, model):
    if optimizer.state:
        return
    sparse = {module.weight for module in (model.modules() if model is not None else ())
              if isinstance(module, torch.nn.Embedding) and module.sparse}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad and parameter.grad is None and parameter not in sparse:
                parameter.grad = torch.zeros_like(parameter)


def broadcast_optimizer_state(optimizer, root_rank, model=None):
    """Gives every rank root_rank's optimizer state, and the steps of its residuals, which stay each rank's own:
    where a rank's are of other steps, as where root_rank alone has loaded a checkpoint, they begin with
    zero, and a warning says so. ValueError on all ranks where root_rank's state cannot be sent.

    As with Horovod, parameters of an optimizer that has no state yet get a gradient of zeros where they
    have none, unless they are of an embedding of `model` whose gradients are sparse.
    """
    check_is_optimizer(optimizer)
    _fill_gradients(optimizer, model)
    share_optimizer_state(optimizer, root_rank)
    settings = getattr(optimizer, "_scalecom", None)
    if settings is not None and settings.op != Adasum:
        residuals.share_steps(settings.names.shapes(), settings.process_set, root_rank, broadcast_object)


def share_optimizer_state(optimizer, root_rank):
    """broadcast_optimizer_state() that leaves gradients as they are."""
    is_root = basics.rank() == root_rank
    tensors = []
    structure = broadcast_object(_take_state(optimizer, tensors) if is_root else None, root_rank, _STATE)
    if not is_root:
        tensors = [torch.empty(place.shape, dtype=place.dtype, device="cpu")
                   for place in _places(structure)]
    mpi_ops.broadcast_all_([f"{_STATE}.{number}" for number in range(len(tensors))], tensors, root_rank)
    if not is_root:
        optimizer.load_state_dict(_put_tensors(structure, iter(tensors)))
