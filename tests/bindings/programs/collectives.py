"""Claims about the collectives. Each function is called on every rank, in this order."""

import gc
import threading
import warnings
from typing import NamedTuple

import numpy
import pytest
import torch

import scalecom.torch as hvd
from scalecom import arrays
from scalecom.torch import mpi_ops, submit
from scalecom.versions import TESTED, warn_of_version

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]


def _each():
    return range(hvd.size())


def allreduce_sums_every_number_type():
    for dtype in FLOATS + INTEGERS:
        mine = torch.arange(17).to(dtype) + hvd.rank()
        wanted = sum(torch.arange(17) + rank for rank in _each()).to(dtype)
        result = hvd.allreduce(mine, name=f"sum.{dtype}", op=hvd.Sum)
        assert result.dtype == dtype
        assert torch.equal(result, wanted), (dtype, result)


def allreduce_averages_by_default():
    result = hvd.allreduce(torch.full((3, 5), float(hvd.rank())), name="average")
    assert torch.allclose(result, torch.full((3, 5), (hvd.size() - 1) / 2), rtol=1e-7)


def average_false_sums_as_in_horovod():
    for average, wanted in ((False, hvd.size()), (0, hvd.size()), (numpy.False_, hvd.size()), (numpy.True_, 1)):
        assert hvd.allreduce(torch.ones(2), average=average, name="old").tolist() == [wanted] * 2


def allreduce_of_integers_averages_towards_zero():
    result = hvd.allreduce(torch.tensor([-7, 7, hvd.rank()]), name="integer", op=hvd.Average)
    assert result.tolist() == [-7, 7, sum(_each()) // hvd.size()]


def allreduce_takes_minimum_maximum_and_product():
    mine = torch.tensor([hvd.rank() + 1.0, -hvd.rank()])
    product = 1.0
    for rank in _each():
        product *= rank + 1.0
    assert hvd.allreduce(mine, name="min", op=hvd.Min).tolist() == [1.0, 1.0 - hvd.size()]
    assert hvd.allreduce(mine, name="max", op=hvd.Max).tolist() == [hvd.size(), 0.0]
    assert hvd.allreduce(mine, name="product", op=hvd.Product)[0] == product


def bool_is_or_for_sum_and_maximum_and_and_for_product_and_minimum():
    mine = torch.tensor([False, True, hvd.rank() == 0])
    some, every = [False, True, True], [False, True, hvd.size() == 1]
    for op, wanted in ((hvd.Sum, some), (hvd.Max, some), (hvd.Product, every), (hvd.Min, every)):
        assert hvd.allreduce(mine, name=f"bool.{op}", op=op).tolist() == wanted


def scales_apply_before_and_after():
    result = hvd.allreduce(torch.full((9,), 3.0), name="scaled", op=hvd.Sum, prescale_factor=0.5,
                           postscale_factor=4.0)
    assert result.tolist() == [6.0 * hvd.size()] * 9


def allreduce_leaves_its_input_and_in_place_returns_it():
    tensor = torch.full((4,), float(hvd.rank()))
    hvd.allreduce(tensor, name="apart", op=hvd.Sum)
    assert tensor.tolist() == [hvd.rank()] * 4
    result = hvd.allreduce_(tensor, name="in place", op=hvd.Sum)
    assert result is tensor
    assert tensor.tolist() == [sum(_each())] * 4


def parameters_can_be_reduced_in_place():
    parameter = torch.nn.Parameter(torch.full((4,), float(hvd.rank())))
    assert hvd.allreduce_(parameter, name="parameter", op=hvd.Sum) is parameter
    assert parameter.tolist() == [sum(_each())] * 4


def scalars_and_empty_tensors_are_reduced():
    assert hvd.allreduce(torch.tensor(2.0), name="scalar", op=hvd.Sum).shape == ()
    assert hvd.allreduce(torch.tensor(2.0), name="scalar", op=hvd.Sum) == 2.0 * hvd.size()
    assert hvd.allreduce(torch.empty(0, 3), name="empty", op=hvd.Sum).shape == (0, 3)


def a_large_odd_tensor_is_summed_exactly():
    count = 1_000_003
    mine = torch.arange(count, dtype=torch.float64) * (hvd.rank() + 1)
    result = hvd.allreduce(mine, name="large", op=hvd.Sum)
    factor = hvd.size() * (hvd.size() + 1) // 2
    assert torch.equal(result, torch.arange(count, dtype=torch.float64) * factor)


def handles_complete_in_any_order_and_know_when():
    handles = [hvd.allreduce_async(torch.full((8,), float(number)), name=f"order.{number}",
                                   op=hvd.Sum) for number in range(20)]
    hvd.synchronize(hvd.allreduce_async(torch.zeros(1), name="behind"))
    for number in reversed(range(20)):
        assert hvd.synchronize(handles[number]).tolist() == [number * hvd.size()] * 8
    handle = hvd.allreduce_async(torch.ones(1), name="polled", op=hvd.Sum)
    operation_is_done = threading.Event()
    while not hvd.poll(handle):
        assert not operation_is_done.wait(0.001)
    assert hvd.synchronize(handle) == hvd.size()


def a_handle_keeps_its_tensor_alive():
    handles = [hvd.allreduce_async_(torch.full((50_000,), 1.0), name=f"alive.{number}", op=hvd.Sum)
               for number in range(10)]
    gc.collect()
    scratch = [torch.full((50_000,), 7.0) for _ in range(10)]
    for handle in handles:
        assert torch.equal(hvd.synchronize(handle), torch.full((50_000,), float(hvd.size())))
    assert all(tensor[0] == 7.0 for tensor in scratch)


def a_handle_is_good_for_one_synchronize():
    handle = hvd.allreduce_async(torch.ones(1), name="once")
    hvd.synchronize(handle)
    for function in (hvd.synchronize, hvd.poll):
        with pytest.raises(ValueError, match=f"handle {handle} is not known"):
            function(handle)


def calls_without_names_match_by_order():
    for number in range(5):
        assert hvd.allreduce(torch.tensor([float(number)]), op=hvd.Sum) == number * hvd.size()
        assert hvd.broadcast(torch.tensor([float(hvd.rank())]), 0) == 0.0


def factors_are_taken_in_the_tensors_own_precision():
    """16-bit numbers are multiplied in 32 bits; integers in 64, and cut."""
    factor = 0.1915194503788923
    for dtype, wide in ((torch.float16, torch.float32), (torch.float32, torch.float32),
                        (torch.float64, torch.float64), (torch.int32, torch.float64)):
        mine = torch.arange(-100, 100).to(dtype)
        times = torch.tensor(factor, dtype=wide)
        before = hvd.allreduce(mine, op=hvd.Max, prescale_factor=factor)
        assert torch.equal(before, (mine.to(wide) * times).to(dtype)), dtype
        after = hvd.allreduce(mine, op=hvd.Sum, postscale_factor=factor)
        assert torch.equal(after, ((mine * hvd.size()).to(wide) * times).to(dtype)), dtype


def short_compression_keeps_the_type():
    """2 to the -14th does not fit in fp16's 10 bits behind a 1, 2 to the -9th not in bf16's 7, whose
    2 to the 100th does not fit in fp16."""
    for compression, rest, large in ((hvd.Compression.fp16, 2.0**-14, 1.0),
                                     (hvd.Compression.bf16, 2.0**-9, 2.0**100)):
        for dtype in (torch.float32, torch.float64):
            mine = torch.full((5,), (1.0 + rest) * large, dtype=dtype)
            result = hvd.allreduce(mine, name=f"half.{dtype}", compression=compression, op=hvd.Sum)
            assert result.dtype == dtype
            assert result.tolist() == [hvd.size() * large] * 5
            hvd.allreduce_(mine, name=f"half.{dtype}", compression=compression, op=hvd.Sum)
            assert mine.tolist() == [hvd.size() * large] * 5
        whole = torch.arange(3)
        assert hvd.allreduce(whole, op=hvd.Sum, compression=compression).dtype == whole.dtype


def allgather_concatenates_different_rows():
    for dtype in FLOATS + INTEGERS + [torch.bool]:
        mine = torch.full((hvd.rank() + 1, 3), hvd.rank() % 2).to(dtype)
        result = hvd.allgather(mine, name=f"gather.{dtype}")
        wanted = torch.cat([torch.full((rank + 1, 3), rank % 2) for rank in _each()]).to(dtype)
        assert result.dtype == dtype and torch.equal(result, wanted)


def allgather_takes_ranks_without_rows():
    rows = 0 if hvd.rank() == 0 else 2
    result = hvd.allgather(torch.full((rows, 2), float(hvd.rank())), name="some rows")
    assert result.tolist() == [[float(rank)] * 2 for rank in _each() if rank > 0 for _ in range(2)]
    assert hvd.allgather(torch.empty(0, 4), name="no rows").shape == (0, 4)


def broadcast_copies_from_every_root():
    for root in _each():
        for dtype in FLOATS + INTEGERS + [torch.bool]:
            mine = (torch.arange(6) % 2 if hvd.rank() == root else torch.zeros(6)).to(dtype)
            result = hvd.broadcast(mine, root, name=f"from.{dtype}")
            assert torch.equal(result, (torch.arange(6) % 2).to(dtype)), dtype
        mine = torch.full((2, 2), float(hvd.rank()))
        assert hvd.broadcast_(mine, root, name="in place") is mine
        assert mine.tolist() == [[root, root]] * 2
        handle = hvd.broadcast_async(torch.tensor(hvd.rank()), root, name="async")
        assert hvd.synchronize(handle) == root
        handle = hvd.broadcast_async_(torch.tensor([hvd.rank()]), root, name="async in place")
        assert hvd.synchronize(handle) == root


def broadcast_leaves_its_input():
    mine = torch.tensor([float(hvd.rank())])
    hvd.broadcast(mine, hvd.size() - 1, name="apart")
    assert mine == hvd.rank()


def the_gradient_of_allreduce_is_an_allreduce():
    mine = torch.ones(3, requires_grad=True)
    (hvd.allreduce(mine, name="grad", op=hvd.Sum) * (hvd.rank() + 1)).sum().backward()
    assert mine.grad.tolist() == [sum(rank + 1 for rank in _each())] * 3
    mine.grad = None
    (hvd.allreduce(mine, name="grad", op=hvd.Average) * (hvd.rank() + 1)).sum().backward()
    assert torch.allclose(mine.grad, torch.full((3,), (hvd.size() + 1) / 2))


def the_gradient_of_allgather_is_this_ranks_part():
    mine = torch.ones(hvd.rank() + 1, 2, requires_grad=True)
    gathered = hvd.allgather(mine, name="grad")
    weights = torch.arange(float(gathered.shape[0])).unsqueeze(1)
    (gathered * weights).sum().backward()
    begin = hvd.rank() * (hvd.rank() + 1) // 2
    assert mine.grad[:, 0].tolist() == list(range(begin, begin + hvd.rank() + 1))


def the_gradient_of_broadcast_arrives_at_the_root():
    root = hvd.size() - 1
    mine = torch.ones(2, requires_grad=True)
    (hvd.broadcast(mine, root, name="grad") * (hvd.rank() + 1)).sum().backward()
    average = (hvd.size() + 1) / 2
    assert mine.grad.tolist() == ([average] * 2 if hvd.rank() == root else [0.0, 0.0])


def a_barrier_overtakes_tensors_that_wait_for_others():
    early = None
    if hvd.rank() == 0:
        early = hvd.allreduce_async(torch.ones(1), name="early", op=hvd.Sum)
    hvd.barrier()
    if early is None:
        early = hvd.allreduce_async(torch.ones(1), name="early", op=hvd.Sum)
    assert hvd.synchronize(early) == hvd.size()


def bursts_in_any_order_are_reduced():
    generator = torch.Generator().manual_seed(hvd.rank())
    for step in range(5):
        tensors = [torch.full((4096,), float(number + step)) for number in range(160)]
        handles = {int(number): hvd.allreduce_async_(tensors[number], name=f"burst.{number}",
                                                     op=hvd.Sum)
                   for number in torch.randperm(160, generator=generator, device="cpu")}
        for number, handle in handles.items():
            assert hvd.synchronize(handle)[17] == (number + step) * hvd.size()


def tensors_of_every_priority_are_summed():
    compression = hvd.Compression.scalecom(rate=1)
    for step in range(5):
        handles = {}
        for number, priority in enumerate((0, -2**31, 7, 2**31 - 1, step, 7)):
            tensor = torch.full((50,), float(number + step))
            chosen = compression if number % 2 == 0 else hvd.Compression.none
            handles[number] = hvd.allreduce_async(tensor, name=f"priority.{number}", op=hvd.Sum,
                                                  compression=chosen, priority=priority)
        for number, handle in handles.items():
            assert hvd.synchronize(handle).tolist() == [(number + step) * hvd.size()] * 50
    tensor = torch.ones(3, requires_grad=True)
    result = hvd.allreduce(tensor, name="priority.gradient", op=hvd.Sum, priority=5)
    result.sum().backward()
    assert tensor.grad.tolist() == [hvd.size()] * 3
    assert hvd.allreduce_(torch.ones(1), name="priority.in place", op=hvd.Sum,
                          priority=-1) == hvd.size()


def threads_submit_at_the_same_time():
    wrong = []

    def work(thread):
        for number in range(50):
            result = hvd.allreduce(torch.full((9,), float(number)), op=hvd.Sum,
                                   name=f"thread.{thread}.{number}")
            if result.tolist() != [number * hvd.size()] * 9:
                wrong.append((thread, number, result))

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def objects_travel():
    root = hvd.size() - 1
    mine = {"rank": hvd.rank(), "text": "x" * hvd.rank(), "none": None}
    assert hvd.broadcast_object(mine, root)["rank"] == root
    assert [item["rank"] for item in hvd.allgather_object(mine)] == list(_each())


def an_object_that_cannot_be_pickled_is_an_error_on_all_ranks():
    root = hvd.size() - 1
    for module in (hvd, arrays):
        for give in (module.broadcast_object, lambda one, _: module.allgather_object(one)):
            with pytest.raises(ValueError, match=f"object of rank {root}, a lock, cannot be pickled"):
                give(threading.Lock() if hvd.rank() == root else 1, root)


def an_untested_torch_is_warned_of():
    with pytest.warns(UserWarning, match=f"PyTorch 3.0.1 is here.*{TESTED['torch'].words}"):
        warn_of_version("torch", "3.0.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for version in ("2.1.0", "2.11.0+cu130", torch.__version__):
            warn_of_version("torch", version)


def parameters_become_the_roots():
    torch.manual_seed(hvd.rank())
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    with torch.no_grad():
        model[0].weight.add_(hvd.rank())
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    hvd.broadcast_parameters(model.named_parameters(), root_rank=0)
    torch.manual_seed(0)
    wanted = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    transposed = torch.full((3, 2), float(hvd.rank())).t()
    hvd.broadcast_parameters([("transposed", transposed)], root_rank=hvd.size() - 1)
    assert (transposed == hvd.size() - 1).all()
    unnamed = [torch.full((2,), float(hvd.rank())), torch.full((3,), -float(hvd.rank()))]
    hvd.broadcast_parameters(unnamed, root_rank=hvd.size() - 1)
    assert [tensor.abs().sum() for tensor in unnamed] == [2 * hvd.size() - 2, 3 * hvd.size() - 3]


def parameters_in_the_hosts_memory_are_one_submit():
    mine = [("once", torch.full((3,), float(hvd.rank()), device="cpu")), ("twice", torch.ones(2, device="cpu"))]
    with pytest.raises(ValueError, match="params has names more than once: twice; each parameter needs"):
        hvd.broadcast_parameters([*mine, mine[1]], root_rank=hvd.size() - 1)
    hvd.broadcast_parameters([], root_rank=0)
    with pytest.MonkeyPatch.context() as patched:
        if hasattr(torch.Tensor, "__dlpack_c_exchange_api__"):
            patched.setattr(mpi_ops, "_submit_broadcast", None)
        hvd.broadcast_parameters(mine, root_rank=hvd.size() - 1)
    assert (mine[0][1] == hvd.size() - 1).all()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(submit, "_EXCHANGE", None)  # As in an older torch.
        hvd.broadcast_parameters(mine, root_rank=0)
    assert (mine[0][1] == hvd.size() - 1).all()
    with pytest.raises(ValueError, match=f"root.*{hvd.size()}"):
        hvd.broadcast_parameters(mine, root_rank=hvd.size())


def the_optimizers_state_becomes_the_roots():
    torch.manual_seed(1)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1 / (hvd.rank() + 1))
    for _ in range(hvd.size() - hvd.rank()):  # The last rank but one has no state to begin with.
        if hvd.rank() == 0:
            model(torch.ones(1, 3)).sum().backward()
            optimizer.step()
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    state = optimizer.state_dict()
    assert state["param_groups"][0]["lr"] == 0.1
    assert state["state"][0]["step"] == hvd.size()
    for entry in state["state"].values():
        everyone = hvd.allgather(entry["exp_avg"].reshape(1, -1), name="moments")
        assert (everyone == everyone[0]).all()


class _Window(NamedTuple):
    steps: int
    sums: torch.Tensor


def the_optimizers_state_may_hold_sparse_tensors_and_named_tuples():
    root = hvd.size() - 1
    model = torch.nn.Embedding(4, 1, sparse=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if hvd.rank() == root:  # It alone resumes.
        optimizer.param_groups[0]["window"] = _Window(3, torch.full((2, 1), 5.0))
        model(torch.tensor([1, 3, 1])).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    hvd.broadcast_optimizer_state(optimizer, root, model)
    window = optimizer.param_groups[0]["window"]
    assert isinstance(window, _Window) and window.steps == 3 and window.sums.tolist() == [[5.0], [5.0]]
    moments = optimizer.state[model.weight]["momentum_buffer"]
    assert moments.is_sparse and moments.to_dense().tolist() == [[0.0], [2.0], [0.0], [1.0]]
    model(torch.tensor([0])).sum().backward()
    optimizer.step()


def an_optimizer_state_that_cannot_be_sent_is_an_error_on_all_ranks():
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)

    def fail():
        raise KeyError("gone")

    optimizer.state[parameter]["unsent"] = torch.ones(1, dtype=torch.complex64)
    with pytest.raises(ValueError, match=r"state of rank 0 cannot be sent \(ValueError: dtype torch.complex64"):
        hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    optimizer.state_dict = fail
    with pytest.raises(ValueError, match=r"state of rank 0 cannot be sent \(KeyError: 'gone'\)"):
        hvd.broadcast_optimizer_state(optimizer, root_rank=0)


def a_new_optimizers_parameters_get_gradients_of_zeros():
    model = torch.nn.Sequential(torch.nn.Embedding(3, 2, sparse=True), torch.nn.Linear(2, 2))
    model[1].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    before = torch.ones(2, 2)
    for given in (model, None):
        hvd.broadcast_optimizer_state(optimizer, root_rank=0, model=given)
        assert model[1].weight.grad.count_nonzero() == (0 if given else 4)
        assert model[1].bias.grad is None
        assert (model[0].weight.grad is None) == (given is not None)
        model[1].weight.grad = before  # One that is there stays.


def this_rank_knows_its_place():
    everyone = hvd.allgather_object((hvd.rank(), hvd.local_rank()))
    assert everyone == [(rank, rank) for rank in _each()]
    assert hvd.local_size() == hvd.size()
    assert (hvd.cross_rank(), hvd.cross_size()) == (0, 1)
    assert hvd.is_homogeneous() and hvd.is_initialized()


def bytes_are_counted():
    before = hvd.stats()
    hvd.allreduce(torch.ones(1000), name="counted")
    after = hvd.stats()
    sent = after["data_bytes_sent"] - before["data_bytes_sent"]
    assert after["tensors_completed"] == before["tensors_completed"] + 1
    everyone = sum(hvd.allgather_object(sent))
    # In shared memory a rank writes its data once, whoever reads it; by messages it sends more.
    assert everyone >= 4000 * hvd.size() if hvd.size() > 1 else everyone == 0


def init_again_does_nothing_and_after_shutdown_joins_again():
    hvd.init()
    rank = hvd.rank()
    hvd.barrier()
    hvd.shutdown()
    hvd.shutdown()
    assert not hvd.is_initialized()
    with pytest.raises(ValueError, match="init"):
        hvd.rank()
    with pytest.raises(ValueError, match="init"):
        hvd.allreduce(torch.ones(1), name="after")
    hvd.init()
    assert hvd.rank() == rank
    assert hvd.allreduce(torch.ones(1), name="after", op=hvd.Sum) == hvd.size()
