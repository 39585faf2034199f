"""Claims about DistributedOptimizer's groups of gradients. Each function is called on every rank, in
this order."""

import copy
import os

import pytest
import torch
from torch import nn

import scalecom.torch as hvd


class _Branches(nn.Module):
    """A layer that ranks may skip, between two that they do not."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.middle, self.last = (nn.Linear(8, 8) for _ in range(3))
        self.double()

    def forward(self, values, skip):
        values = self.first(values).tanh()
        return self.last(values if skip else self.middle(values).tanh())


def _wrap(model, optimizer=None, **named):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters(), **named)


def _backward(model, step, skip=False):
    generator = torch.Generator().manual_seed(100 * step + hvd.rank())
    values = torch.randn(6, 8, generator=generator, device="cpu", dtype=torch.float64)
    loss = model(values.to(model.first.weight), skip).square().mean()
    loss.backward()
    return loss


def _train(model, optimizer, skip=lambda step: False, steps=5):
    for step in range(steps):
        optimizer.zero_grad()
        _backward(model, step, skip(step))
        optimizer.step()
    return [parameter.detach().clone() for parameter in model.parameters()]


def _is_same(value, other):
    """To the bit, but over NCCL: it adds in an order that goes by a tensor's place in the fused buffer."""
    if value.is_cuda and os.environ.get("SCALECOM_CUDA_COLLECTIVES") != "host":
        return _is_close(value, other)
    return torch.equal(value, other)


def _is_close(value, other):
    return torch.allclose(value, other, rtol=1e-12, atol=1e-14)


def _skips_on_some_ranks(step):
    return step == hvd.rank() or step == 4  # In the last step on all of them.


def _groupings(model):
    parameters = list(model.parameters())
    return ({"num_groups": 1}, {"num_groups": 2}, {"groups": 4}, {"groups": 100},
            {"groups": [parameters[::2], parameters[1::2]]},
            {"groups": [[model.middle.weight, model.first.bias]]}, {"groups": []})


def _assert_trains_as_without(skip=lambda step: False, **named):
    model = _Branches()
    wanted = _train(model, _wrap(model, **named), skip)
    for place in range(len(_groupings(model))):
        model = _Branches()
        result = _train(model, _wrap(model, **named, **_groupings(model)[place]), skip)
        for value, other in zip(result, wanted):
            assert _is_close(value, other), (place, named)


def groups_train_as_single_gradients():
    _assert_trains_as_without()
    _assert_trains_as_without(op=hvd.Sum)


def groups_heed_the_predivide_factor():
    """Horovod's ignored it."""
    _assert_trains_as_without(gradient_predivide_factor=4.0)
    # What travels is divided: the sum alone would be past float16's largest number, 65,504.
    layer = nn.Linear(2, 1, bias=False)
    optimizer = hvd.DistributedOptimizer(
        torch.optim.SGD(layer.parameters(), lr=0.1), layer.named_parameters(), groups=1,
        compression=hvd.Compression.fp16, gradient_predivide_factor=float(2 * hvd.size()))
    layer(torch.full((1, 2), 40_000.0)).sum().backward()
    optimizer.synchronize()
    assert torch.allclose(layer.weight.grad, torch.full((1, 2), 40_000.0), rtol=1e-3)


def _names_under_way(optimizer):
    return {gradient.name for gradient in optimizer._scalecom.gradients if gradient.wire is not None}


def a_gradient_that_is_none_does_no_harm():
    """Horovod's groups crashed on it."""
    _assert_trains_as_without(_skips_on_some_ranks)


def groups_keep_names_and_compression():
    compression = hvd.Compression.scalecom(rate=4, rates={"*.weight": 4, "*": None})
    model = _Branches().float()  # ScaleCom takes no float64.
    optimizer = _wrap(model, groups=2, compression=compression)
    _train(model, optimizer)
    names = {name for name, _ in model.named_parameters() if name.endswith("weight")}
    assert set(optimizer.state_dict()["scalecom"]["residuals"]) == names


def a_group_starts_when_its_last_gradient_is_there():
    model = _Branches()
    optimizer = _wrap(model, groups=[[model.first.bias, model.last.bias],
                                     [model.last.weight, model.middle.weight, model.middle.bias]])
    started = []

    def look(_):
        started.append(_names_under_way(optimizer))

    # Called when the gradient has passed the layer behind it.
    for layer in (model.last, model.middle):
        layer.register_forward_pre_hook(lambda layer, inputs: inputs[0].register_hook(look) and None)
    _backward(model, 0)
    # A layer's own gradients may come before or after that of its input.
    assert "last.weight" not in started[0] and "last.bias" not in started[1]
    assert _names_under_way(optimizer) == {name for name, _ in model.named_parameters()}
    optimizer.step()


def several_passes_add_up_in_groups():
    results = []
    for named in ({}, {"groups": 2}):
        model = _Branches()
        optimizer = _wrap(model, backward_passes_per_step=1, **named)
        optimizer.set_backward_passes_per_step(2)
        for step in range(3):
            optimizer.zero_grad()
            for part in range(2):
                assert not _names_under_way(optimizer)
                _backward(model, 2 * step + part)
            assert len(_names_under_way(optimizer)) == 6
            optimizer.step()
        results.append([parameter.detach() for parameter in model.parameters()])
    assert all(map(_is_same, *results))
    for passes in (0, -1):
        with pytest.raises(ValueError, match=f"backward_passes_per_step is {passes}"):
            optimizer.set_backward_passes_per_step(passes)


def zero_grad_is_refused_while_a_group_waits():
    model = _Branches()
    optimizer = _wrap(model, groups=1)
    _backward(model, 0, skip=True)
    assert not _names_under_way(optimizer)  # Those of the layer that was skipped are not there.
    with pytest.raises(AssertionError, match="zero_grad"):
        optimizer.zero_grad()
    optimizer.step()
    for set_to_none in (True, False):
        optimizer.zero_grad(set_to_none=set_to_none)
        for parameter in model.parameters():
            assert parameter.grad is None if set_to_none else parameter.grad.abs().sum() == 0
        _backward(model, 1)
        optimizer.step()


def a_closures_groups_are_reduced():
    model, wanted = _Branches(), _Branches()
    optimizer = _wrap(model, groups=1)
    for step in range(5):
        def closure(step=step):
            optimizer.zero_grad()
            return _backward(model, step, _skips_on_some_ranks(step))
        optimizer.step(closure)
    for value, other in zip(model.parameters(), _train(wanted, _wrap(wanted), _skips_on_some_ranks)):
        assert _is_same(value, other)


def state_goes_on_in_groups():
    def make():
        model = _Branches()
        return model, _wrap(model, torch.optim.Adam(model.parameters(), lr=0.01), groups=2)

    model, optimizer = make()
    _train(model, optimizer)
    other, resumed = make()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert all(map(_is_same, _train(other, resumed), _train(model, optimizer)))


def wrong_groups_are_refused_at_the_call():
    model = _Branches()
    weight = model.first.weight
    stranger = nn.Parameter(torch.ones(2))
    for groups, message in ((-1, "groups is -1"), ("all", "groups is 'all'"), (1.5, "groups is 1.5"),
                            ([weight], "list of lists"), ([["first.weight"]], "list of lists"),
                            ([[weight], [weight]], "more than once"),
                            ([[weight, stranger]], "1 parameters that the optimizer has not")):
        with pytest.raises(ValueError, match=message):
            _wrap(model, groups=groups)
    model.middle.requires_grad_(False)
    _train(model, _wrap(model, groups=[list(model.parameters())]), steps=1)  # Frozen: left alone.


def optimizers_of_different_numbers_of_parameters_are_told_apart_in_the_first_step():
    model = nn.Sequential(nn.Linear(8, 8), *(nn.Linear(8, 8) for _ in range(hvd.rank() == hvd.size() - 1)))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.1),
                                         named_parameters=model.named_parameters())
    model(torch.ones(2, 8)).sum().backward()
    if hvd.size() == 1:
        optimizer.step()
        return
    count, others = (4, ", 1.weight, 1.bias") if hvd.rank() == hvd.size() - 1 else (2, "")
    with pytest.raises(hvd.HorovodInternalError, match=f"different numbers of parameters, {count} on this rank "
                       fr"\(0.weight, 0.bias{others}\); make the same model"):
        optimizer.step()
