"""Claims about Adasum and the optimizer that uses it. Each function is called on every rank, in this
order."""

import numpy
import pytest
import torch
from torch import nn

import scalecom.torch as hvd

TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 1e-6, torch.float64: 1e-14}


def _dot(a, b):
    return float((a.astype(numpy.longdouble) * b).sum())


def _weight(dot, norm):
    return 1.0 if norm == 0.0 else 1.0 - dot / (2.0 * norm)


def _pair(a, b):
    return _weight(_dot(a, b), _dot(a, a)) * a + _weight(_dot(a, b), _dot(b, b)) * b


def _adasum(vectors):
    """Of arrays in rank order: as many first pairs as leave a power of two, then all of them."""
    vectors = list(vectors)
    while len(vectors) > 1:
        surplus = len(vectors) - 2 ** (len(vectors).bit_length() - 1)
        pairs = surplus or len(vectors) // 2
        vectors = [_pair(*vectors[2 * place:2 * place + 2])
                   for place in range(pairs)] + vectors[2 * pairs:]
    return vectors[0]


def _inputs(shape, seed, dtype=torch.float64):
    """Every rank's tensor, by rank: they have a direction in common."""
    generator = torch.Generator(device="cpu").manual_seed(seed)

    def draw():
        return torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")

    shared = draw()
    return [((1 + rank) * shared + draw()).to(dtype) for rank in range(hvd.size())]


def _on_device(tensor):
    return tensor.to(torch.get_default_device())


def _assert_adasum(result, inputs, factor=1.0):
    expected = _adasum(one.double().numpy() for one in inputs) * factor
    assert (result.dtype, tuple(result.shape)) == (inputs[0].dtype, expected.shape)
    difference = numpy.abs(result.cpu().double().numpy() - expected).max(initial=0.0)
    assert difference <= TOLERANCES[result.dtype] * numpy.abs(expected).max(initial=0.0)
    _assert_equal_everywhere(result)


def _assert_equal_everywhere(tensor):
    mine = tensor.detach().flatten().unsqueeze(0)
    everyone = hvd.allgather(mine)
    assert torch.equal(everyone, mine.expand_as(everyone))


def every_call_combines_tensors_of_any_shape_and_dtype():
    calls = (hvd.allreduce, hvd.allreduce_,
             lambda *given, **named: hvd.synchronize(hvd.allreduce_async(*given, **named)),
             lambda *given, **named: hvd.synchronize(hvd.allreduce_async_(*given, **named)))
    for dtype in TOLERANCES:
        for shape in ((), (0, 3), (1,), (5,), (2, 3), (70_001,)):
            for number, call in enumerate(calls):
                inputs = _inputs(shape, number, dtype)
                mine = _on_device(inputs[hvd.rank()].clone())
                _assert_adasum(call(mine, name=f"call {number}", op=hvd.Adasum), inputs)


def each_member_of_a_group_has_its_own_weights():
    shapes = ((3,), (1000,), (0,), (2, 2))
    for call in (hvd.grouped_allreduce, hvd.grouped_allreduce_):
        inputs = [_inputs(shape, 10 + place) for place, shape in enumerate(shapes)]
        mine = [_on_device(ranks[hvd.rank()].clone()) for ranks in inputs]
        for result, ranks in zip(call(mine, name="group", op=hvd.Adasum), inputs):
            _assert_adasum(result, ranks)


def factors_and_compression_apply():
    inputs = _inputs((100,), 20)
    mine = _on_device(inputs[hvd.rank()])
    result = hvd.allreduce(mine, op=hvd.Adasum, prescale_factor=4.0, postscale_factor=0.5)
    _assert_adasum(result, inputs, 2.0)
    inputs = _inputs((100,), 21, torch.float16)
    result = hvd.allreduce(_on_device(inputs[hvd.rank()].float()), op=hvd.Adasum,
                           compression=hvd.Compression.fp16)
    assert result.dtype == torch.float32
    _assert_adasum(result.half(), inputs)


def the_gradient_is_the_adasum_of_the_gradients():
    inputs = _inputs((7,), 30)
    for reduce in (lambda value: hvd.allreduce(value, op=hvd.Adasum),
                   lambda value: hvd.grouped_allreduce([value], op=hvd.Adasum)[0]):
        value = _on_device(torch.ones(7, dtype=torch.float64)).requires_grad_()
        (reduce(value) * _on_device(inputs[hvd.rank()])).sum().backward()
        _assert_adasum(value.grad, inputs)


def wrong_arguments_are_refused_at_the_call():
    tensor = torch.ones(4)
    for bad in (torch.ones(4, dtype=torch.int32), torch.ones(4, dtype=torch.bool)):
        with pytest.raises(ValueError, match="Adasum combines float16.*not (int32|bool)"):
            hvd.allreduce(bad, name="bad", op=hvd.Adasum)
    with pytest.raises(ValueError, match="ScaleCom compresses sum and average, not adasum"):
        hvd.allreduce(tensor, name="bad", op=hvd.Adasum, compression=hvd.Compression.scalecom())
    with pytest.raises(ValueError, match="all-reduces only"):
        hvd.reducescatter(tensor, name="bad", op=hvd.Adasum)
    assert torch.equal(hvd.allreduce(tensor, name="bad", op=hvd.Adasum), tensor)


def ranks_that_disagree_about_the_op_hear_of_it():
    if hvd.size() == 1:
        return
    op = hvd.Adasum if hvd.rank() == 0 else hvd.Sum
    with pytest.raises(hvd.HorovodInternalError, match="op differs.*adasum on rank 0.*sum on"):
        hvd.allreduce(torch.ones(3), name="disagreed", op=op)


def a_process_set_combines_its_own_tensors():
    if hvd.size() == 1:
        return
    first = hvd.add_process_set([0])
    if hvd.rank() == 0:
        mine = torch.full((3,), 2.0)
        assert torch.equal(hvd.allreduce(mine, op=hvd.Adasum, process_set=first), mine)
    hvd.remove_process_set(first)


def many_steps_repeat_without_a_schedule():
    """A session learns what repeats; Adasum stays negotiated between sums that are not."""
    inputs = _inputs((50,), 40)
    mine = _on_device(inputs[hvd.rank()])
    results = []
    for _ in range(60):
        handles = [hvd.allreduce_async(mine, name="sum", op=hvd.Sum),
                   hvd.allreduce_async(mine, name="adasum", op=hvd.Adasum)]
        results.append([hvd.synchronize(handle) for handle in handles])
    _assert_adasum(results[0][1], inputs)
    for total, combined in results:
        assert torch.equal(total, results[0][0]) and torch.equal(combined, results[0][1])


def _model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1)).double()


def _loss(model, seed):
    generator = torch.Generator(device="cpu").manual_seed(1000 * seed + hvd.rank())
    values = torch.randn(8, 4, generator=generator, device="cpu", dtype=torch.float64)
    wanted = values.mean(dim=1, keepdim=True).tanh()
    return (model(_on_device(values)) - _on_device(wanted)).square().mean()


def _wrapped(model, **named):
    return hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
                                    model.named_parameters(), op=hvd.Adasum, **named)


def a_step_adds_the_adasum_of_the_ranks_changes():
    model = _model()
    optimizer = _wrapped(model)
    alone = [_model() for _ in range(hvd.size())]
    local = torch.optim.SGD(alone[hvd.rank()].parameters(), lr=0.05, momentum=0.9)
    for _ in range(2):  # In the second step, momentum is each rank's own.
        before = [parameter.detach().clone() for parameter in model.parameters()]
        for parameter, start in zip(alone[hvd.rank()].parameters(), before):
            parameter.data.copy_(start)
        for one, stepper in ((model, optimizer), (alone[hvd.rank()], local)):
            stepper.zero_grad()
            _loss(one, 1).backward()
            stepper.step()
        for parameter, start, own in zip(model.parameters(), before,
                                         alone[hvd.rank()].parameters()):
            deltas = hvd.allgather((own - start).detach().unsqueeze(0)).cpu()
            expected = start + _on_device(torch.from_numpy(
                numpy.asarray(_adasum(deltas.numpy()))))
            assert torch.allclose(parameter, expected, rtol=1e-12, atol=1e-14)


def a_model_trains_and_ranks_stay_equal():
    for compression in (hvd.Compression.none, hvd.Compression.fp16):
        model = _model()
        optimizer = _wrapped(model, compression=compression)
        losses = []
        for step in range(60):
            optimizer.zero_grad()
            loss = _loss(model, step)
            loss.backward()
            optimizer.step()
            losses.append(hvd.allreduce(loss.detach()).item())
        assert sum(losses[-5:]) < 0.1 * sum(losses[:5]), losses
        for parameter in model.parameters():
            _assert_equal_everywhere(parameter)


def backward_passes_are_counted_between_steps():
    models = [_model(), _model()]
    optimizer = _wrapped(models[0], backward_passes_per_step=2)
    for seed in (1, 2):
        _loss(models[0], seed).backward()
    with pytest.raises(AssertionError, match=r"of [02]\.\w+ was computed more than 2 times"):
        _loss(models[0], 3).backward()
    optimizer.zero_grad()
    for seed in (1, 2):
        _loss(models[0], seed).backward()
    optimizer.step()
    other = _wrapped(models[1])  # The same gradients, in one pass.
    (_loss(models[1], 1) + _loss(models[1], 2)).backward()
    other.step()
    for one, two in zip(models[0].parameters(), models[1].parameters()):
        assert torch.allclose(one, two, rtol=1e-12, atol=1e-14)
    optimizer.set_backward_passes_per_step(1)
    _loss(models[0], 1).backward()
    optimizer.step()


def a_parameter_without_gradient_on_some_ranks_takes_part():
    model = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    for parameter in model.parameters():
        nn.init.ones_(parameter)
    optimizer = _wrapped(model)
    model[1 if hvd.rank() == 0 else 0](torch.ones(1, 2)).sum().backward()
    loss = optimizer.step(lambda: 5.0)
    assert loss == 5.0
    changes = [float((layer.weight.detach() - 1.0).abs().max()) for layer in model]
    assert changes[1] > 0.0 and (hvd.size() == 1 or changes[0] > 0.0)


def a_delta_optimizer_refuses_what_it_cannot_do():
    model = _model()
    with pytest.raises(ValueError, match="Compression.scalecom.*not with Adasum"):
        _wrapped(model, compression=hvd.Compression.scalecom())
    with pytest.raises(ValueError, match="gradient_predivide_factor needs op=Average"):
        _wrapped(model, gradient_predivide_factor=2.0)
    with pytest.raises(ValueError, match="backward_passes_per_step is 0"):
        _wrapped(model, backward_passes_per_step=0)
    optimizer = _wrapped(model)
    optimizer.synchronize()
    with pytest.raises(AssertionError, match="skip_synchronize.*Adasum"):
        optimizer.skip_synchronize()
    state = hvd.elastic.TorchState(model=model, optimizer=optimizer)
    state.sync()
    state.reset()


def optimizer_state_travels():
    model = _model()
    optimizer = _wrapped(model)
    _loss(model, 1).backward()
    optimizer.step()
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)
    _assert_equal_everywhere(optimizer.state_dict()["state"][0]["momentum_buffer"])
