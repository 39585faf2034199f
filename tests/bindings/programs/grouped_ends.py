"""Programs in which a group does not complete well."""

import pytest
import torch

import scalecom.torch as hvd


def fill_the_queue():
    hvd.init()
    tensors = [torch.ones(3) for _ in range(9)]
    for call in (hvd.grouped_allreduce, hvd.grouped_allreduce_, hvd.grouped_allreduce_async):
        with pytest.raises(ValueError, match="9 more come as a group.*SCALECOM_QUEUE_CAPACITY"):
            call(tensors, name="full", op=hvd.Sum)
    for tensor in hvd.grouped_allreduce(tensors[:8], name="full", op=hvd.Sum):
        assert tensor.tolist() == [hvd.size()] * 3
    hvd.shutdown()


def leave_before_the_others_submit():
    hvd.init()
    rank = hvd.rank()
    if rank == 0:
        handle = hvd.grouped_allreduce_async([torch.ones(3), torch.ones(4)], name="alone")
    hvd.barrier()
    if rank != 0:
        hvd.shutdown()
        return
    with pytest.raises(hvd.HorovodInternalError, match="rank 1 called shutdown"):
        hvd.synchronize(handle)
    hvd.shutdown()
