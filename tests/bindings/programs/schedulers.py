"""Claims about DistributedOptimizer and what torch puts around step(). Each function is called on every
rank, in this order."""

import functools
import gc
import types
import warnings
import weakref

import torch
from torch import nn
from torch.optim.lr_scheduler import StepLR

import scalecom.torch as hvd


def _layer():
    torch.manual_seed(5)
    return nn.Linear(6, 3, dtype=torch.float64)


def _values(step):
    """Other ones on each rank, so that weights which are not reduced differ."""
    generator = torch.Generator().manual_seed(100 * step + hvd.rank())
    return torch.randn(4, 6, generator=generator, device="cpu", dtype=torch.float64)


def _made_before(optimizer, **named):
    scheduler = StepLR(optimizer, 1, 0.5)
    return hvd.DistributedOptimizer(optimizer, **named), scheduler


def _made_of_the_wrapped_one(optimizer, **named):
    wrapped = hvd.DistributedOptimizer(optimizer, **named)
    return wrapped, StepLR(optimizer, 1, 0.5)


def _made_of_the_wrapper(optimizer, **named):
    wrapped = hvd.DistributedOptimizer(optimizer, **named)
    return wrapped, StepLR(wrapped, 1, 0.5)


def _train(make, op, steps=3):
    """Weights and rate after so many steps, each with its scheduler's. Warnings are errors: torch warns where it
    thinks that step() was not called or was replaced."""
    layer = _layer()
    optimizer, scheduler = make(torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9),
                                named_parameters=layer.named_parameters(), op=op)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(steps):
            layer(_values(step).to(layer.weight)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
            if scheduler is not None:
                scheduler.step()
    return layer.weight.detach().clone(), optimizer.param_groups[0]["lr"]


def a_scheduler_of_either_optimizer_leaves_step_distributed():
    for op in (hvd.Average, hvd.Adasum):
        for make in (_made_before, _made_of_the_wrapped_one, _made_of_the_wrapper):
            weight, rate = _train(make, op)
            of_all = hvd.allgather(weight[None])
            assert all(torch.equal(one, weight) for one in of_all), (op, make)
            expected, _ = _train(lambda optimizer, **named: (hvd.DistributedOptimizer(optimizer, **named), None),
                                 op, steps=1)
            first, _ = _train(make, op, steps=1)
            assert torch.equal(first, expected) and rate == 0.1 * 0.5 ** 3, (op, make)


def step_outlives_the_scheduler_and_the_wrapped_optimizer():
    layer = _layer()
    optimizer, scheduler = _made_before(torch.optim.SGD(layer.parameters(), lr=0.1),
                                        named_parameters=layer.named_parameters())
    del scheduler
    gc.collect()
    before = layer.weight.detach().clone()
    layer(_values(0).to(layer.weight)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(layer.weight, before)


def hooks_of_step_are_called_once_before_and_after_a_state_is_loaded():
    layer = _layer()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1),
                                         named_parameters=layer.named_parameters())
    calls = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("behind"))
    for _ in range(2):
        layer(_values(0).to(layer.weight)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert calls == ["before", "behind"], calls
        calls.clear()
        optimizer.load_state_dict(optimizer.state_dict())


def an_optimizer_that_its_own_hooks_and_step_hold_is_freed():
    layer = _layer()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1),
                                         named_parameters=layer.named_parameters())
    optimizer.register_step_post_hook(functools.partial(lambda *_: None, optimizer))
    optimizer.step = types.MethodType(type(optimizer).step, optimizer)
    layer(_values(0).to(layer.weight)).square().mean().backward()
    optimizer.step()
    gone = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert gone() is None


def what_was_assigned_to_step_may_be_taken_back():
    layer = _layer()
    inner = torch.optim.SGD(layer.parameters(), lr=0.1)
    optimizer = hvd.DistributedOptimizer(inner, named_parameters=layer.named_parameters())
    optimizer.step = inner.step = optimizer.step
    del optimizer.step
    layer(_values(0).to(layer.weight)).square().mean().backward()
    inner.step()  # Which is the wrapper's now.
    assert torch.equal(*hvd.allgather(layer.weight.detach()[None])[[0, -1]])
