"""Claims about what compilers and trainers on top of torch do with DistributedOptimizer. Each function is
called on every rank, in this order."""

import torch
from programs.optimizer import (_assert_same_bits, _assert_same_model, _backward, _batches, _mine, _model,
                                _train, _train_alone, _wrap)
from torch import nn

import scalecom.torch as hvd


class _Delegate:
    """Around an optimizer, of a class derived from its own, as Lightning's are: what it has not itself, the
    optimizer has."""

    def __init__(self, optimizer):
        kind = type(optimizer)
        self.__class__ = type(f"Delegate{kind.__name__}", (_Delegate, kind), {})
        self.inner = optimizer

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def step(self, closure=None):
        return self.inner.step(closure=closure)


def a_compiled_model_trains_as_one_process_with_the_whole_batch():
    for names_of in (lambda plain, compiled: plain, lambda plain, compiled: compiled):
        model = _model()
        compiled = torch.compile(model, backend="aot_eager")
        _train(compiled, _wrap(names_of(model, compiled)), _batches(10))
        _assert_same_model(model, _train_alone(10))
        _assert_same_bits(model)


def a_delegate_that_runs_a_whole_step_in_a_closure_trains_so():
    model = _model()
    optimizer = _Delegate(_wrap(model))
    assert isinstance(optimizer, torch.optim.SGD)
    for batch in _batches(10):
        def closure(batch=batch):
            optimizer.zero_grad()
            return _backward(model, _mine(batch))
        assert optimizer.step(closure=closure) > 0
    _assert_same_model(model, _train_alone(10))


def _train_in_turns(front, back, wrap, part_of):
    """Two optimizers by hand: while one has its turn, what the other has needs no gradients."""
    model = nn.Sequential(front, back)
    optimizers = [wrap(name, part) for name, part in (("front", front), ("back", back))]
    for batch in _batches(5):
        for optimizer, other in zip(optimizers, (back, front)):
            other.requires_grad_(False)
            optimizer.zero_grad()
            _backward(model, part_of(batch))
            optimizer.step()
            other.requires_grad_(True)
    return model


def _halves():
    layers = _model()
    return layers[:2], layers[2:]


def two_optimizers_take_turns_by_hand():
    def plain(name, part):
        return torch.optim.SGD(part.parameters(), lr=0.05, momentum=0.9)

    def distributed(name, part):
        named = [(f"{name}.{own}", parameter) for own, parameter in part.named_parameters()]
        return hvd.DistributedOptimizer(plain(name, part), named_parameters=named)

    model = _train_in_turns(*_halves(), distributed, _mine)
    _assert_same_model(model, _train_in_turns(*_halves(), plain, lambda batch: batch))
    _assert_same_bits(model)
