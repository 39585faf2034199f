"""Claims about what compilers and trainers on top of torch do with DistributedOptimizer. Each function is
called on every rank, in this order."""

import contextlib
import gc
import unittest
import warnings
import weakref

import pytest
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


def what_a_compiled_function_calls_is_called_as_it_is():
    """Dynamo does not trace it: it would warn, and make anew in each call what is made once."""
    def step(inputs):
        values = torch.tanh(norm(inputs))
        everyone = hvd.allgather(values, name="compiled.gathered")
        total = hvd.allreduce(values, name="compiled.total", op=hvd.Sum)
        loss = everyone.square().mean() + (total * values).sum() / hvd.size()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return hvd.allreduce(loss.detach(), name="compiled.loss")

    results = []
    for make in (lambda function: torch.compile(function, backend="aot_eager"), lambda function: function):
        norm = hvd.SyncBatchNorm(4)
        optimizer = _wrap(norm)
        inputs = torch.randn(8, 4, generator=torch.Generator(torch.get_default_device()).manual_seed(hvd.rank()))
        stepping = make(step)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Dynamo")
            results.append([stepping(inputs).item() for _ in range(3)])
        results[-1] += norm.weight.tolist() + norm.bias.tolist()
    assert results[0] == pytest.approx(results[1], rel=1e-6)


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


def models_with_the_same_names_are_refused_when_they_take_turns():
    def step(layer, optimizer):
        optimizer.zero_grad()
        layer(torch.ones(4, 64)).sum().backward()
        optimizer.step()

    def pairs(*names, compression=hvd.Compression.scalecom(rate=8)):
        layers = [nn.Linear(64, 64, bias=False) for _ in names]
        return [(layer, hvd.DistributedOptimizer(torch.optim.SGD(layer.parameters(), lr=0.1),
                                                 [(name, layer.weight)], compression=compression))
                for layer, name in zip(layers, names)]

    first, second = pairs("turns.weight", "turns.weight")
    step(*first)
    step(*first)
    with unittest.TestCase().assertLogs("scalecom", "WARNING") as logs:
        step(*second)
        step(*second)
    assert len(logs.output) == 1 and "turns.weight: another parameter" in logs.output[0]
    first[1].load_state_dict(first[1].state_dict())  # What is restored is the parameter's own.
    step(*first)
    step(*second)
    with pytest.raises(ValueError, match="turns.weight: gradients of two parameters.*named_parameters="):
        step(*first)
    step(*second)  # It is not refused for the other's sake.
    # Where the former is gone, and where each has its own names or owes nothing, there is nothing to say.
    with unittest.TestCase().assertNoLogs("scalecom", "WARNING"):
        for _ in range(3):
            step(*pairs("again.weight")[0])
            gc.collect()
        for one in 2 * [*pairs("one.weight", "other.weight"),
                        *pairs("dense.weight", "dense.weight", compression=hvd.Compression.none)]:
            step(*one)


def models_with_the_same_names_are_refused_in_one_backward_pass():
    """Also where the first gradient of a name is reduced already when the second comes."""
    for width in (8, 1024):
        layers = [nn.Linear(width, 512, bias=False) for _ in range(2)]
        first, second = (_wrap(layer) for layer in layers)
        with pytest.raises(ValueError, match="weight: the gradient of another parameter.*named_parameters="):
            sum(layer(torch.ones(1, width)).sum() for layer in layers).backward()
        second.synchronize()  # The backward pass begins with the last.
        first.synchronize()


class _Owner:
    """Only the garbage collector ends it."""

    def __init__(self, *owned):
        self.owned, self.itself = owned, self


def what_the_garbage_collector_has_yet_to_end_refuses_nothing():
    """It runs on each rank when it likes."""
    def step(layer, optimizer):
        layer(torch.ones(1, 64)).sum().backward()
        optimizer.step()

    def wrap(layer, inner=None):
        inner = inner or torch.optim.SGD(layer.parameters(), lr=0.1)
        return hvd.DistributedOptimizer(inner, [("ended.weight", layer.weight)],
                                        compression=hvd.Compression.scalecom(rate=8))

    layer, other = (nn.Linear(64, 64, bias=False) for _ in range(2))
    optimizer, inner = wrap(layer), torch.optim.SGD(layer.parameters(), lr=0.1)
    gc.collect()
    gc.disable()
    try:
        step(layer, optimizer)
        later = wrap(other)
        step(other, later)
        _Owner(later)
        del later
        if hvd.rank() == 0:
            gc.collect()
        step(layer, optimizer)  # In turns.
        _Owner(wrap(layer, inner))
        if hvd.rank() == 0:
            gc.collect()
        optimizer = wrap(layer, inner)  # Wrapped already.
        _Owner(optimizer)
        layer(torch.ones(1, 64)).sum().backward()
        del optimizer
        if hvd.rank() == 0:
            gc.collect()
        step(layer, wrap(layer))  # Is reducing.
    finally:
        gc.enable()


def an_optimizer_that_goes_in_the_middle_of_a_step_leaves_its_names():
    model = _model()
    for one in (model, _model(), model):  # Other parameters, the same names.
        optimizer = _wrap(one)
        _backward(one, _mine(_batches(1)[0]))
        del optimizer
    _train(model, _wrap(model), _batches(3))
    _assert_same_model(model, _train_alone(3))


def a_session_that_ends_lets_go_what_an_optimizer_left():
    model = _model()
    optimizer = _wrap(model)
    _backward(model, _mine(_batches(1)[0]))
    kept = weakref.ref(optimizer._scalecom)
    del optimizer
    assert kept() is not None
    hvd.barrier()
    hvd.shutdown()
    gc.collect()
    assert kept() is None
    hvd.init()


def an_error_in_what_follows_a_reduction_leaves_the_rest_to_the_next_call():
    class Fails(hvd.Compression.fp16):
        calls = 0

        @classmethod
        def decompress(cls, tensor, ctx):
            cls.calls += 1
            if cls.calls == 2:
                raise KeyboardInterrupt
            return super().decompress(tensor, ctx)

    model = _model(torch.float32)
    optimizer = _wrap(model, Fails)
    _backward(model, _mine(_batches(1, torch.float32)[0]))
    with pytest.raises(KeyboardInterrupt):
        optimizer.synchronize()
    with pytest.raises(AssertionError, match="zero_grad"):
        optimizer.zero_grad()
    optimizer.synchronize()
    assert Fails.calls == 1 + len(list(model.parameters()))
    _assert_same_bits(model)
    for value in model.parameters():
        assert all(torch.equal(value.grad, other) for other in hvd.allgather(value.grad[None]))


def who_is_interrupted_in_a_step_may_call_it_again():
    model = _model()
    optimizer = _wrap(model, op=hvd.Sum, groups=[[value] for value in model.parameters()])
    _backward(model, _mine(_batches(1)[0]))
    ticket = optimizer._scalecom.pending[2][0]
    ticket_type, interrupted = type(ticket), []
    original = ticket_type.wait

    def wait(one, *arguments):
        if one is ticket and not interrupted:
            interrupted.append(one)
            raise KeyboardInterrupt
        return original(one, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ticket_type, "wait", wait)
        with pytest.raises(KeyboardInterrupt):
            optimizer.synchronize()
        optimizer.synchronize()
    assert interrupted and not optimizer._scalecom.is_reducing()
    alone = _model()
    _backward(alone, _batches(1)[0])
    for value, wanted in zip(model.parameters(), alone.parameters()):
        assert torch.allclose(value.grad, wanted.grad * hvd.size())


def a_compressed_model_is_moved_by_swapping_its_tensors():
    """As torch moves what is of a tensor's subclass: it refuses where there are weak references."""
    model = nn.Linear(64, 64)
    optimizer = _wrap(model, hvd.Compression.scalecom(rate=8))
    model(torch.ones(2, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        model.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)
    assert model.weight.dtype == torch.float64


def _fine_tune(wrap, part_of, add):
    """The head alone, then all with the first layer thawed, then all without the last layer's bias."""
    model = _model()
    parts = [model[0].requires_grad_(False), model[2], model[4]]
    first, *others = (list(part.parameters()) for part in parts)
    optimizer = wrap(torch.optim.SGD(sum(others, [] if add else first), lr=0.05, momentum=0.9), model)
    for step, batch in enumerate(_batches(9)):
        if step == 3:
            parts[0].requires_grad_(True)
            if add == "append":
                optimizer.param_groups[0]["params"] += first
            elif add:
                optimizer.add_param_group({"params": first, "lr": 0.03})
        if step == 6:
            parts[2].bias.requires_grad_(False)
        optimizer.zero_grad()
        _backward(model, part_of(batch))
        optimizer.step()
    return model


def what_is_thawed_frozen_or_added_later_trains_as_with_one_process():
    def named(model):
        return {"named_parameters": model.named_parameters()}

    for add, more in ((False, named), ("group", named), ("append", named),
                      ("group", lambda model: {}),
                      (False, lambda model: {**named(model), "num_groups": 2}),
                      (False, lambda model: {**named(model), "groups": [list(model.parameters())]})):
        model = _fine_tune(lambda optimizer, model: hvd.DistributedOptimizer(optimizer, **more(model)),
                           _mine, add)
        _assert_same_model(model, _fine_tune(lambda optimizer, model: optimizer, lambda batch: batch, add))
        _assert_same_bits(model)


def what_is_thawed_or_added_later_starts_in_the_backward_pass():
    model = _model()
    late = nn.Linear(4, 4).double()
    model[0].requires_grad_(False)
    optimizer = _wrap(model, groups=[list(model[0].parameters())], op=hvd.Sum)
    optimizer.add_param_group({"params": late.parameters()})
    model[0].requires_grad_(True)
    _backward(nn.Sequential(model, late), _mine(_batches(1)[0]))
    settings = optimizer._scalecom
    assert [gradient.name for gradient in settings.gradients if gradient.wire is None] == []
    assert [gradient.name for gradient in settings.gradients][-2:] == ["parameter.1.0", "parameter.1.1"]
    optimizer.step()
    with pytest.raises(AssertionError, match="parameter.1.[01] was computed more than 1 times"):
        for _ in range(2):
            late(torch.ones(1, 4).double()).sum().backward()
    with pytest.raises(AssertionError, match="parameter.1.[01] was changed"):
        optimizer.step()


def a_sparse_gradient_that_is_thawed_stays_sparse():
    torch.manual_seed(2)
    table, layer = nn.Embedding(6, 3, sparse=True), nn.Linear(3, 1)
    model = nn.Sequential(table.requires_grad_(False), layer)
    optimizer = _wrap(model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    for step in range(4):
        table.requires_grad_(step > 1)
        optimizer.zero_grad()
        model(torch.tensor([hvd.rank() % 6])).sum().backward()
        optimizer.synchronize()
        assert step < 2 or table.weight.grad.is_sparse
        with optimizer.skip_synchronize():
            optimizer.step()
    _assert_same_bits(model)


def adasum_takes_what_is_thawed_or_added_later():
    model, late = _model(), nn.Linear(4, 4).double()
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    optimizer = _wrap(model, op=hvd.Adasum)
    for step in range(2):
        optimizer.zero_grad()
        _backward(nn.Sequential(model, late), _mine(_batches(1)[0]))
        optimizer.step()
        assert torch.equal(before, model[0].weight) == (step == 0)
        model[0].requires_grad_(True)
        if step == 0:
            optimizer.add_param_group({"params": late.parameters()})
    _assert_same_bits(nn.Sequential(model, late))


def parameters_that_only_some_ranks_freeze_are_named():
    if hvd.size() == 1:
        return
    model = _model()
    model[2].requires_grad_(hvd.rank() != 0)
    optimizer = _wrap(model)
    _backward(model, _mine(_batches(1)[0]))
    with pytest.raises(hvd.HorovodInternalError, match="2.weight, 2.bias: trained on some ranks and frozen"):
        optimizer.step()
    hvd.barrier()
    hvd.shutdown()
    hvd.init()


def a_gradient_that_is_changed_while_it_is_reduced_is_refused():
    """Of several sizes: large ones are on their way when the backward pass ends, small ones wait for others."""
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=2.0)
    for width in (8, 1024):
        model = nn.Linear(width, 512)
        for change in (lambda: nn.utils.clip_grad_norm_(model.parameters(), 1e-3), model.zero_grad,
                       lambda: setattr(model.weight, "grad", model.weight.grad * 2.0)):
            for compression in (hvd.Compression.none, hvd.Compression.fp16):
                optimizer = _wrap(model, compression)
                scaler.scale(model(torch.ones(2, width)).sum()).backward()
                change()
                with pytest.raises(AssertionError, match=r"(weight|bias) was changed.*synchronize\(\)"):
                    optimizer.step()
                optimizer.zero_grad()
                scaler.scale(model(torch.ones(2, width)).sum()).backward()
                optimizer.synchronize()
                scaler.unscale_(optimizer)
                nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
                with optimizer.skip_synchronize():
                    scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()


def a_scaler_steps_when_gradients_are_reduced():
    layer = nn.Linear(1024, 512)
    optimizer = _wrap(layer)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    scaler = torch.amp.GradScaler(torch.get_default_device().type, init_scale=2.0)
    scaler.scale(layer(torch.ones(2, 1024)).sum()).backward()
    with pytest.raises(AssertionError, match=r"GradScaler.step\(\) has unscaled.*skip_synchronize\(\)"):
        scaler.step(optimizer)
    optimizer.synchronize()
    for options in ({"init_scale": 2.0}, {"enabled": False}):
        scaler = torch.amp.GradScaler(torch.get_default_device().type, **options)
        optimizer.zero_grad()
        before = layer.weight.detach().clone()
        scaler.scale(layer(torch.ones(2, 1024)).sum()).backward()
        if scaler.is_enabled():
            optimizer.synchronize()
        with optimizer.skip_synchronize() if scaler.is_enabled() else contextlib.nullcontext():
            scaler.step(optimizer)
        scaler.update()
        scheduler.step()
        assert (layer.weight < before).all()


def what_cannot_be_wrapped_is_refused():
    model = _model()
    wrapped = _wrap(model)
    stranger = nn.Parameter(torch.ones(2), requires_grad=False)
    for wrong, message, given in (
            (wrapped, "SGD, is wrapped already", {}), (model, "optimizer is a Sequential", {}),
            *((None, "gradient_predivide_factor is", {"gradient_predivide_factor": value})
              for value in (0, "a", -1.0, float("inf"))),
            *((None, "backward_passes_per_step is", {"backward_passes_per_step": value})
              for value in (1.5, "a", None, 0)),
            (None, "groups has 1 parameters", {"groups": [[model[0].weight, stranger]]})):
        with pytest.raises(ValueError, match=message):
            _wrap(model, optimizer=wrong, **given)


class _Halves:
    """A compressor of one's own, as Horovod takes them: two methods and no more."""

    @staticmethod
    def compress(tensor):
        return tensor.mul_(0.5), None

    @staticmethod
    def decompress(tensor, ctx):
        return tensor * 2.0


def a_compressor_of_ones_own_needs_two_methods():
    model = _model()
    _train(model, _wrap(model, compression=_Halves), _batches(10))
    _assert_same_model(model, _train_alone(10))
    for compression in (_Halves, _Halves()):
        for reduce in (hvd.allreduce, hvd.allreduce_):
            assert reduce(torch.ones(3), op=hvd.Sum, compression=compression).tolist() == [hvd.size()] * 3
    assert [row["mode"] for row in hvd.compression_plan(model.float().named_parameters(), _Halves)] == ["dense"] * 6
    with pytest.raises(ValueError, match="compression is <object .*compress.tensor. and decompress"):
        hvd.allreduce(torch.ones(3), compression=object())


def a_gradient_that_torch_keeps_negated_is_reduced():
    """As that of a complex model's phase of one element."""
    phase = nn.Parameter(torch.ones(1))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD([phase], lr=1.0), named_parameters=[("phase", phase)])
    shown = (torch.complex(torch.zeros(1), phase).conj() * 1j).real if hvd.rank() == 0 else phase
    (shown * (1 + hvd.rank())).sum().backward()
    optimizer.step()
    assert phase.item() == 1 - sum(range(1, hvd.size() + 1)) / hvd.size()
