"""Claims about SyncBatchNorm. Each function is called on every rank of a job, in this order."""

import copy

import pytest
import torch
from torch import nn

import scalecom.torch as hvd

PLAIN = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
CHANNELS = 3


def _inputs(sizes, tail=(), dtype=torch.float64, shift=0.0):
    """The batches of all ranks; that of rank r has sizes[r] rows."""
    generator = torch.Generator().manual_seed(23)
    return [(torch.randn(size, CHANNELS, *tail, generator=generator, device="cpu",
                         dtype=torch.float64) + shift).to(torch.get_default_device(), dtype)
            for size in sizes]


def _sizes():
    """Other batches on each rank; the last has none where there are three."""
    return [5, 2, 0][:hvd.size()] if hvd.size() <= 3 else [4] * hvd.size()


def _pair(tail=(), dtype=torch.float64, **named):
    """The same layer twice: over all ranks, and as torch has it."""
    torch.manual_seed(2)
    plain = PLAIN[2 + len(tail)](CHANNELS, **named).to(dtype)
    if plain.affine:
        with torch.no_grad():
            plain.weight.uniform_(0.5, 2.0)
            plain.bias.uniform_(-1.0, 1.0)
    synced = hvd.SyncBatchNorm(CHANNELS, **named).to(dtype)
    synced.load_state_dict(copy.deepcopy(plain.state_dict()))
    return synced, plain


def _assert_close(value, wanted, tolerance=1e-11):
    assert value.dtype == wanted.dtype and value.shape == wanted.shape
    assert torch.allclose(value, wanted, rtol=tolerance, atol=tolerance), (value, wanted)


def _assert_equals_one_process(layers, batches, tolerance=1e-11):
    """Outputs, running statistics and gradients are those of one process with all batches."""
    synced, plain = layers
    rank = hvd.rank()
    mine = batches[rank].clone().requires_grad_()
    everything = torch.cat(batches).requires_grad_()
    begin, count = sum(len(batch) for batch in batches[:rank]), len(batches[rank])
    result, wanted = synced(mine), plain(everything)
    _assert_close(result, wanted[begin:begin + count], tolerance)
    slope = torch.arange(wanted.numel(), dtype=wanted.dtype).view(wanted.shape).cos()
    ((result ** 2 + result) * slope[begin:begin + count]).sum().backward()
    ((wanted ** 2 + wanted) * slope).sum().backward()
    _assert_close(mine.grad, everything.grad[begin:begin + count], tolerance)
    for parameter, other in zip(synced.parameters(), plain.parameters()):
        _assert_close(hvd.allreduce(parameter.grad, op=hvd.Sum), other.grad, tolerance)
    for name, value in plain.state_dict().items():
        _assert_close(synced.state_dict()[name], value, tolerance)


def it_equals_one_process_with_all_batches():
    for tail in ((), (7,), (4, 3), (2, 3, 2)):
        layers = _pair(tail)
        for _ in range(2):  # The running statistics go on.
            _assert_equals_one_process(layers, _inputs(_sizes(), tail))
            for layer in layers:
                layer.zero_grad()


def options_are_those_of_batch_norm():
    for named in ({"affine": False}, {"track_running_stats": False}, {"momentum": None},
                  {"momentum": 0.7}, {"eps": 0.5}):
        layers = _pair((2,), **named)
        for shift in (0.0, 3.0):
            _assert_equals_one_process(layers, _inputs(_sizes(), (2,), shift=shift))
            for layer in layers:
                layer.zero_grad()


def one_row_in_all_on_a_rank_is_enough():
    _assert_equals_one_process(_pair((4,)), _inputs([1] * hvd.size(), (4,)))
    if hvd.size() > 1:
        _assert_equals_one_process(_pair(), _inputs([1] * hvd.size()))


def a_mean_that_is_large_beside_the_deviation_costs_no_digits():
    # float32 has 24 bits, of which the mean takes 13 here.
    synced, plain = _pair(dtype=torch.float32)
    batches = _inputs([50] * hvd.size(), shift=4096.0)
    result = synced(batches[hvd.rank()].float())
    wanted = plain.double()(torch.cat([batch.float() for batch in batches]).double())
    begin = 50 * hvd.rank()
    assert torch.allclose(result.double(), wanted[begin:begin + 50], rtol=0, atol=2e-3)
    assert torch.allclose(synced.running_var.double(), plain.running_var, rtol=1e-4)


def narrow_types_are_summed_in_32_bits():
    for dtype, tolerance in ((torch.float16, 4e-3), (torch.bfloat16, 4e-2)):
        synced, plain = _pair((6,))
        batches = [batch.to(dtype) for batch in _inputs([8] * hvd.size(), (6,))]
        result = synced.float()(batches[hvd.rank()])
        wanted = plain(torch.cat(batches).double())
        begin = 8 * hvd.rank()
        assert result.dtype == dtype
        assert torch.allclose(result.double(), wanted[begin:begin + 8], rtol=tolerance,
                              atol=tolerance)
        # These are in float32: nothing is lost.
        assert torch.allclose(synced.running_mean.double(), plain.running_mean, rtol=1e-5, atol=1e-6)


def any_memory_format_will_do():
    layers = _pair((4, 3))
    _assert_equals_one_process(layers, [batch.to(memory_format=torch.channels_last)
                                        for batch in _inputs(_sizes(), (4, 3))])


def eval_mode_is_plain_batch_norm_and_exchanges_nothing():
    for named in ({}, {"track_running_stats": False}):
        synced, plain = _pair((2,), **named)
        batch = _inputs([4 + rank for rank in range(hvd.size())], (2,))[hvd.rank()]
        synced.eval(), plain.eval()
        hvd.barrier()
        before = hvd.stats()["tensors_completed"]
        assert torch.equal(synced(batch), plain(batch))
        assert hvd.stats()["tensors_completed"] == before
        hvd.barrier()


def a_first_layer_needs_no_gradient_of_its_input():
    synced, plain = _pair()
    batches = _inputs(_sizes())
    synced(batches[hvd.rank()]).square().sum().backward()
    plain(torch.cat(batches)).square().sum().backward()
    _assert_close(hvd.allreduce(synced.weight.grad, op=hvd.Sum), plain.weight.grad)
    with torch.no_grad():
        assert not synced(batches[hvd.rank()]).requires_grad


def batches_that_are_empty_everywhere_change_nothing():
    synced, _ = _pair()
    before = copy.deepcopy(synced.state_dict())
    result = synced(torch.empty(0, CHANNELS, dtype=torch.float64))
    assert result.shape == (0, CHANNELS)
    for name in ("running_mean", "running_var"):
        assert torch.equal(synced.state_dict()[name], before[name])


def one_value_per_channel_in_all_is_refused_everywhere():
    synced, _ = _pair()
    rows = 1 if hvd.rank() == 0 else 0
    with pytest.raises(ValueError, match="more"):
        synced(torch.ones(rows, CHANNELS, dtype=torch.float64))
    _assert_equals_one_process(_pair(), _inputs(_sizes()))


def wrong_input_is_refused_at_the_call():
    synced, _ = _pair()
    for is_training in (True, False):
        synced.train(is_training)
        for shape, message in (((3,), r"\(3,\).*batch, channels"), ((), "batch, channels"),
                               ((2, 4), "4 channels; num_features is 3"),
                               ((2, 4, 3), "4 channels")):
            with pytest.raises(ValueError, match=message):
                synced(torch.ones(shape, dtype=torch.float64))
        with pytest.raises(ValueError, match="int64.*floating-point"):
            synced(torch.ones(2, 3, dtype=torch.int64))


def other_numbers_of_channels_fail_everywhere():
    if hvd.size() == 1:
        return
    channels = 4 if hvd.rank() == 0 else 5
    layer = hvd.SyncBatchNorm(channels)
    with pytest.raises(hvd.HorovodInternalError, match="SyncBatchNorm, forward"):
        layer(torch.randn(6, channels))
    _assert_equals_one_process(_pair(), _inputs(_sizes()))
