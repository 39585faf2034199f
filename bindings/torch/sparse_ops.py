"""The all-reduce of sparse (COO) tensors: all ranks gather all ranks' elements.

Per rank it brings, of each of the elements that all ranks store, the value and one 64-bit index for
each sparse dimension; it pays as long as the ranks together store few.
"""

import torch

from scalecom import basics
from scalecom._library import Tickets, lib
from scalecom.exceptions import HorovodInternalError
from scalecom.process_sets import used
from scalecom.reductions import Average, Sum, word_of
from scalecom.torch import submit
from scalecom.torch.mpi_ops import copier, register, synchronize
from scalecom.torch.submit import submit_each

_WIDE = {torch.float16: torch.float32, torch.bfloat16: torch.float32}


class SparseHandle(int):
    """A handle that may also be called for the result, as Horovod's is."""

    def __call__(self):
        return synchronize(self)


def _check(tensor, op):
    if submit.checked(tensor).layout != torch.sparse_coo or tensor.sparse_dim() == 0:
        raise ValueError(f"the tensor's layout is {tensor.layout}; sparse (torch.sparse_coo) "
                         "tensors with one sparse dimension or more are needed: call allreduce, or "
                         "to_sparse() first")
    if op not in (Average, Sum):
        raise ValueError(f"op is {word_of(op)}; a sparse allreduce takes Average or Sum")
    if tensor.dtype == torch.bool:
        raise ValueError("bool can be neither averaged nor added up sparsely; cast it")


def submit_sparse(full, tensor, op):
    """The ticket of a checked tensor's all-reduce under a full name, and what makes its result."""
    tensor = tensor.detach()
    values = submit.contiguous(tensor._values())
    # No index is negative: what is, is a rank's row that tells the others the tensor's size.
    sizes = torch.tensor([tensor.shape[:tensor.sparse_dim()]], device=values.device)
    rows = torch.cat([-1 - sizes, tensor._indices().t()])
    parts = [values, rows]
    tickets = submit_each(lib.scalecom_all_gather_group, [full + b".values", full + b".indices"], parts)
    copies = list(map(copier, parts))
    ranks = basics.size()

    def finish(_):
        all_values, all_rows = (copy(ticket) for copy, ticket in zip(copies, tickets))
        is_size = all_rows[:, 0] < 0
        sizes = (-1 - all_rows[is_size]).tolist()
        if any(size != sizes[0] for size in sizes):
            raise HorovodInternalError(
                f"{full.decode()}: the sparse dimensions differ: " +
                ", ".join(f"{size} on rank {rank}" for rank, size in enumerate(sizes)))
        return _combine(all_rows[~is_size].t(), all_values, tensor, op, ranks)

    return Tickets(tickets), finish


def _combine(indices, values, tensor, op, ranks):
    """What all ranks store, added up by place; 16-bit numbers in 32 bits."""
    wide = values.to(_WIDE.get(values.dtype, values.dtype))
    # Torch warns where nobody says whether to check.
    total = torch.sparse_coo_tensor(indices, wide, tensor.shape, check_invariants=False).coalesce()
    sums = total.values()
    if op == Average:
        rounding = None if sums.is_floating_point() else "trunc"
        sums = torch.div(sums, ranks, rounding_mode=rounding)
    return torch.sparse_coo_tensor(total.indices(), sums.to(tensor.dtype), tensor.shape,
                                   is_coalesced=True, check_invariants=False)


def sparse_allreduce_async(tensor, name=None, op=Average, process_set=None):
    """Starts a reduction of a sparse (COO) tensor over all ranks. The result is a new tensor of the
    same shape, coalesced. op: Average or Sum."""
    with used(process_set):
        _check(tensor, op)
        ticket, finish = submit.with_name("sparse_allreduce", name,
                                          lambda full: submit_sparse(full, tensor, op))
        return SparseHandle(register(ticket, None, finish))
