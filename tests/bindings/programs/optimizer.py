"""Claims about DistributedOptimizer. Each function is called on every rank, in this order."""

import copy
import hashlib
import warnings

import pytest
import torch
from torch import nn

import scalecom.torch as hvd
from scalecom.torch import submit


def _model(dtype=torch.float64):
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(12, 40), nn.Tanh(), nn.Linear(40, 30), nn.Tanh(),
                         nn.Linear(30, 4)).to(dtype)


def _batches(steps, dtype=torch.float64):
    """Batches of 24 samples: divisible by every tested number of ranks (1, 2, 3, 4, 8)."""
    generator = torch.Generator().manual_seed(9)
    place = torch.get_default_device()
    return [(torch.randn(24, 12, generator=generator, device="cpu").to(place, dtype),
             torch.randn(24, 4, generator=generator, device="cpu").to(place, dtype))
            for _ in range(steps)]


def _mine(batch):
    inputs, targets = batch
    return inputs[hvd.rank()::hvd.size()], targets[hvd.rank()::hvd.size()]


def _backward(model, batch):
    inputs, targets = batch
    loss = (model(inputs) - targets).square().mean()
    loss.backward()
    return loss


def _train(model, optimizer, batches):
    for batch in batches:
        optimizer.zero_grad()
        _backward(model, _mine(batch))
        optimizer.step()


def _wrap(model, compression=hvd.Compression.none, optimizer=None, **named):
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters(),
                                    compression=compression, **named)


def _train_alone(steps, make=None):
    """The whole batch on one process, without scalecom."""
    model = _model()
    make = make or (lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9))
    optimizer = make(model.parameters())
    for batch in _batches(steps):
        optimizer.zero_grad()
        _backward(model, batch)
        optimizer.step()
    return model


def _start_new_session():
    """Residuals belong to names and live as long as the session."""
    hvd.barrier()
    hvd.shutdown()
    hvd.init()
    assert not hvd.compression_state()


def _assert_same_model(model, wanted):
    """To rounding: sums of gradients over ranks in float64, over 10 steps."""
    for (name, value), other in zip(model.named_parameters(), wanted.parameters()):
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-12), name


def _assert_same_bits(model):
    digest = hashlib.sha256(b"".join(value.detach().cpu().numpy().tobytes()
                                     for value in model.parameters())).hexdigest()
    assert len(set(hvd.allgather_object(digest))) == 1


def training_equals_one_process_with_the_whole_batch():
    model = _model()
    _train(model, _wrap(model), _batches(10))
    _assert_same_model(model, _train_alone(10))
    _assert_same_bits(model)


def adam_equals_one_process_with_the_whole_batch():
    model = _model()
    adam = torch.optim.Adam(model.parameters(), lr=0.01)
    _train(model, _wrap(model, optimizer=adam), _batches(10))
    _assert_same_model(model, _train_alone(10, lambda values: torch.optim.Adam(values, lr=0.01)))


def predivided_gradients_give_the_same_average():
    model = _model()
    _train(model, _wrap(model, gradient_predivide_factor=4.0), _batches(10))
    _assert_same_model(model, _train_alone(10))


def sum_is_size_times_average():
    model = _model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05 / hvd.size(), momentum=0.9)
    _train(model, _wrap(model, optimizer=sgd, op=hvd.Sum), _batches(10))
    _assert_same_model(model, _train_alone(10))


def several_backward_passes_add_up():
    model = _model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.05 / 2, momentum=0.9)
    optimizer = _wrap(model, optimizer=sgd, backward_passes_per_step=2)
    for inputs, targets in _batches(10):
        optimizer.zero_grad()
        for part in (0, 1):
            _backward(model, _mine((inputs[part::2], targets[part::2])))
        optimizer.step()
    if 12 % hvd.size() == 0:  # Halves of a batch that every rank gets an equal part of.
        _assert_same_model(model, _train_alone(10))
    _assert_same_bits(model)


def a_further_backward_pass_is_refused():
    model = _model()
    optimizer = _wrap(model)
    batch = _mine(_batches(1)[0])
    _backward(model, batch)
    with pytest.raises(AssertionError, match="backward_passes_per_step"):
        _backward(model, batch)
    with pytest.raises(AssertionError, match="was changed"):
        optimizer.synchronize()
    optimizer.zero_grad()
    optimizer.set_backward_passes_per_step(2)
    _backward(model, batch)
    _backward(model, batch)
    with optimizer.skip_synchronize():
        optimizer.synchronize()
        optimizer.step()


def communication_starts_before_the_backward_pass_ends():
    torch.manual_seed(5)
    # Small gradients go together, until they are 1 MiB or 64.
    many = [nn.Linear(4, 4) for _ in range(40)]
    for behind in ([nn.Linear(40, 4000), nn.Linear(4000, 40, bias=False), nn.Linear(40, 4)],
                   [nn.Linear(40, 4), *many]):
        model = nn.Sequential(nn.Linear(12, 40), *behind).double()
        optimizer = _wrap(model)
        started = []

        def look(*_):
            started.extend(gradient.name for _, gradients in optimizer._scalecom.pending
                           for gradient in gradients)

        # Called when the gradient has passed all layers but the first.
        model[0].register_forward_hook(
            lambda layer, inputs, output: output.register_hook(look) and None)
        _backward(model, _mine(_batches(1)[0]))
        assert f"{len(model) - 1}.weight" in started
        assert "0.weight" not in started
        optimizer.step()


def what_the_forward_pass_needs_first_has_the_highest_priority():
    submitted = {}
    all_reduce_burst = submit.all_reduce_burst

    def listen(tensors, names, reductions):
        submitted.update(zip(names, (reduction.priority for reduction in reductions)))
        return all_reduce_burst(tensors, names, reductions)

    model = _model()
    submit.all_reduce_burst = listen
    try:
        # The optimizer's own order does not matter.
        sgd = torch.optim.SGD(list(model.parameters())[::-1], lr=0.05)
        _train(model, _wrap(model, optimizer=sgd), _batches(1))
    finally:
        submit.all_reduce_burst = all_reduce_burst
    names = [submit.full_name("allreduce", name) for name, _ in model.named_parameters()]
    assert set(submitted) == set(names)
    priorities = [submitted[name] for name in names]
    assert priorities == sorted(priorities, reverse=True) and len(set(priorities)) == len(names)
    assert max(priorities) < 0  # What is submitted beside the gradients does not wait for them.


def gradients_can_be_clipped_between_synchronize_and_step():
    model = _model()
    optimizer = _wrap(model)
    _backward(model, _mine(_batches(1)[0]))
    optimizer.synchronize()
    alone = _model()
    _backward(alone, _batches(1)[0])
    for value, other in zip(model.parameters(), alone.parameters()):
        assert torch.allclose(value.grad, other.grad, rtol=1e-9, atol=1e-12)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with optimizer.skip_synchronize():
            optimizer.step()


def a_step_after_synchronize_warns():
    model = _model()
    optimizer = _wrap(model)
    _backward(model, _mine(_batches(1)[0]))
    optimizer.synchronize()
    with pytest.warns(UserWarning, match="^optimizer.step.. called without "
                      "optimizer.skip_synchronize"):
        optimizer.step()


def zero_grad_in_the_middle_is_refused():
    model = _model()
    optimizer = _wrap(model)
    _backward(model, _mine(_batches(1)[0]))
    with pytest.raises(AssertionError, match="zero_grad"):
        optimizer.zero_grad()
    optimizer.step()
    optimizer.zero_grad()


def a_closure_is_called_before_the_reduction():
    model = _model()
    optimizer = _wrap(model)
    for batch in _batches(10):
        def closure(batch=batch):
            optimizer.zero_grad()
            return _backward(model, _mine(batch))
        assert optimizer.step(closure) > 0
    _assert_same_model(model, _train_alone(10))


def a_failed_step_leaves_the_optimizer_usable():
    model = _model(torch.float32)
    optimizer = _wrap(model)
    if hvd.size() > 1:
        _backward(model, _mine(_batches(1, torch.float32)[0]))
        optimizer.synchronize()
        # One rank's gradient has another shape than the others'.
        rows = 3 if hvd.rank() == 0 else 2
        handle = hvd.allreduce_async(torch.ones(rows), name="0.weight")
        with pytest.raises(hvd.HorovodInternalError, match="0.weight"):
            hvd.synchronize(handle)
        optimizer.zero_grad()
        if hvd.rank() == 0:
            optimizer._scalecom.compression = hvd.Compression.fp16  # The dtypes differ now.
        _backward(model, _mine(_batches(1, torch.float32)[0]))
        with pytest.raises(hvd.HorovodInternalError, match="float16 on rank 0"):
            optimizer.step()
        optimizer._scalecom.compression = hvd.Compression.none
        optimizer.zero_grad()
    _train(model, optimizer, _batches(2, torch.float32))
    _assert_same_bits(model)


def an_error_while_gradients_are_finished_leaves_none_on_its_way():
    class Fails(hvd.Compression.fp16):
        has_failed = False

        @classmethod
        def decompress(cls, tensor, ctx):
            if not cls.has_failed:
                cls.has_failed = True
                raise hvd.HorovodInternalError("not this one")
            return super().decompress(tensor, ctx)

    model = _model(torch.float32)
    optimizer = _wrap(model, compression=Fails, groups=[[value] for value in model.parameters()])
    _backward(model, _mine(_batches(1, torch.float32)[0]))
    with pytest.raises(hvd.HorovodInternalError, match="not this one"):
        optimizer.synchronize()
    reduced = [value.grad.clone() for value in list(model.parameters())[::-1][1:]]
    for value in reduced:  # The others are reduced and decompressed.
        assert all(torch.equal(value, other) for other in hvd.allgather(value[None]))
    optimizer.zero_grad()
    _train(model, optimizer, _batches(2, torch.float32))
    _assert_same_bits(model)


def parameters_without_gradient_on_some_ranks_take_part():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(12, 4), nn.Linear(12, 4)

        def forward(self, values):
            return self.left(values) if hvd.rank() % 2 == 0 else self.right(values)

    torch.manual_seed(1)
    model = Branches()
    optimizer = _wrap(model)
    for inputs, targets in _batches(3, torch.float32):
        optimizer.zero_grad()
        _backward(model, (inputs, targets))
        optimizer.step()
    _assert_same_bits(model)


def frozen_parameters_are_left_alone():
    model = _model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    _train(model, _wrap(model), _batches(3))
    assert torch.equal(model[0].weight, before) and model[0].weight.grad is None
    _assert_same_bits(model)


def fp16_compression_trains():
    model = _model(torch.float32)
    _train(model, _wrap(model, hvd.Compression.fp16), _batches(10, torch.float32))
    _assert_same_bits(model)
    for value, other in zip(model.parameters(), _train_alone(10).parameters()):
        # Gradients have 11 bits, so do the steps of size 0.05 that they add up to.
        assert torch.allclose(value.double(), other, rtol=0, atol=2e-3)


def scalecom_leaves_every_rank_the_same_bits():
    for beta in (1.0, 0.1):
        model = _model(torch.float32)
        compression = hvd.Compression.scalecom(rate=20, beta=beta, rates={"0.weight": None},
                                               min_elements=100)
        before = copy.deepcopy(model.state_dict())
        _train(model, _wrap(model, compression), _batches(10, torch.float32))
        _assert_same_bits(model)
        assert not torch.equal(model[2].weight, before["2.weight"])


def scalecom_at_rate_one_is_dense():
    _start_new_session()
    model = _model(torch.float32)
    compression = hvd.Compression.scalecom(rate=1, rates={"*": 1})
    _train(model, _wrap(model, compression), _batches(10, torch.float32))
    for value, other in zip(model.parameters(), _train_alone(10).parameters()):
        assert torch.allclose(value.double(), other, rtol=1e-4, atol=1e-5)


def small_and_one_dimensional_parameters_stay_dense():
    _start_new_session()
    model = _model(torch.float32)
    optimizer = _wrap(model, hvd.Compression.scalecom(rate=10))
    _train(model, optimizer, _batches(1, torch.float32))
    assert set(hvd.compression_state()) == {"2.weight"}  # The only one of 1,024 elements or more.
    hvd.allreduce(torch.ones(4), name="other", compression=hvd.Compression.scalecom(rate=2))
    assert set(optimizer.state_dict()["scalecom"]["residuals"]) == {"2.weight"}


def rates_are_chosen_by_pattern():
    compression = hvd.Compression.scalecom(rate=100, rates={"2.*": 7, "*.weight": None})
    model = _model(torch.float32)
    assert compression.rate_of("2.weight", model[2].weight) == 7
    assert compression.rate_of("2.bias", model[2].bias) == 7
    assert compression.rate_of("0.weight", model[0].weight) is None
    assert compression.rate_of("0.bias", model[0].bias) is None
    with pytest.raises(ValueError, match="'conv\\*' of rates matches no parameter"):
        _wrap(model, hvd.Compression.scalecom(rates={"conv*": 3}))


def residuals_of_another_number_of_ranks_are_delivered_in_full():
    """Three former ranks owe the mean of their residuals over beta; these ranks deliver it."""
    _start_new_session()
    beta = 0.5
    generator = torch.Generator().manual_seed(3)
    states = [{"residuals": {"w": torch.randn(40, generator=generator, device="cpu")}, "steps": {"w": 7}}
              for _ in range(3)]
    folded = hvd.fold_compression_states(states)
    assert folded["steps"] == {"w": 7}
    hvd.load_compression_state(folded["residuals"], folded["steps"])
    compression = hvd.Compression.scalecom(rate=1, beta=beta)
    delivered = torch.zeros(40)
    for _ in range(60):  # What stays shrinks by 1 - beta in each step.
        delivered += hvd.allreduce(torch.zeros(40), name="w", compression=compression)
    owed = sum(state["residuals"]["w"] for state in states) / 3 / beta
    assert torch.allclose(delivered.cpu(), owed, rtol=1e-5, atol=1e-6)
    assert hvd.compression_steps()["w"] == 67


def training_goes_on_from_a_checkpoint_bit_by_bit():
    """Residuals and steps are in state_dict(); a new session loads them."""
    batches = _batches(12, torch.float32)

    def make():
        model = _model(torch.float32)
        return model, _wrap(model, hvd.Compression.scalecom(rate=20, beta=0.3, min_elements=100))

    model, optimizer = make()
    _train(model, optimizer, batches[:5])
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    assert saved[1]["scalecom"]["residuals"]["2.weight"].abs().sum() > 0
    _train(model, optimizer, batches[5:])
    _start_new_session()
    resumed, optimizer = make()
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    _train(resumed, optimizer, batches[5:])
    for value, other in zip(resumed.parameters(), model.parameters()):
        assert torch.equal(value, other)


def a_plain_state_dict_loads_too():
    model = _model(torch.float32)
    plain = torch.optim.SGD(model.parameters(), lr=0.125, momentum=0.9)
    optimizer = _wrap(model)
    optimizer.load_state_dict(plain.state_dict())
    assert optimizer.param_groups[0]["lr"] == 0.125


def a_checkpoint_of_another_model_is_refused():
    """Or one that is broken; and nothing is changed by it."""
    model = _model(torch.float32)
    optimizer = _wrap(model, hvd.Compression.scalecom(rate=20, min_elements=100))
    _train(model, optimizer, _batches(1, torch.float32))
    before = copy.deepcopy(optimizer.state_dict())
    for part, value, message in (
            ("residuals", {"0.weight": torch.zeros(40, 12), "2.weight": torch.zeros(3, 3)},
             "2.weight has shape \\(3, 3\\); the parameter's is \\(30, 40\\): is this"),
            ("residuals", {"3.weight": torch.zeros(3, 3)}, "3.weight .*unknown here"),
            ("steps", {"2.weight": -5}, "step of 2.weight is -5"),
            ("betas", {"2.weight": 2}, "beta of 2.weight is 2"),
            ("steps", None, "'steps' of the saved state is None"),
            (None, None, "the saved state is None; a dict with 'residuals' and 'steps'"),
            (None, {}, "the saved state is {}")):
        saved = copy.deepcopy(before)
        for one in saved["state"].values():
            one["momentum_buffer"] += 1.0
        saved["scalecom"]["residuals"]["0.weight"] += 1.0
        if part is None:
            saved["scalecom"] = value
        else:
            saved["scalecom"][part] = value
        with pytest.raises(ValueError, match=message):
            optimizer.load_state_dict(saved)
        now = optimizer.state_dict()
        assert all(torch.equal(one["momentum_buffer"], now["state"][place]["momentum_buffer"])
                   for place, one in before["state"].items())
        for name, residual in before["scalecom"]["residuals"].items():
            assert torch.equal(residual, now["scalecom"]["residuals"][name])
        assert now["scalecom"]["steps"] == before["scalecom"]["steps"]


def it_is_an_optimizer_of_its_class():
    model = _model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.5)
    optimizer = _wrap(model, optimizer=sgd)
    assert isinstance(optimizer, torch.optim.SGD)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)
    _train(model, optimizer, _batches(1))
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.05)


def data_loaders_may_fork():
    data = torch.utils.data.TensorDataset(torch.arange(24.0, device="cpu").reshape(12, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2)
    layer = torch.nn.Linear(2, 1)
    optimizer = _wrap(layer)
    hvd.broadcast_parameters(layer.state_dict(), 0)
    for (values,) in loader:
        optimizer.zero_grad()
        layer(values.to(layer.weight.device)).sum().backward()
        optimizer.step()
    _assert_same_bits(layer)


def names_are_made_where_none_are_given():
    model = _model()
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), 0.05, momentum=0.9))
    _train(model, optimizer, _batches(10))
    _assert_same_model(model, _train_alone(10))


def wrong_arguments_are_refused_at_the_call():
    model = _model()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    pairs = list(model.named_parameters())
    for named, message in (
            ({"op": hvd.Max}, "Average or Sum"),
            ({"backward_passes_per_step": 0}, "backward_passes_per_step is 0"),
            ({"op": hvd.Sum, "gradient_predivide_factor": 2.0}, "needs op=Average"),
            ({"named_parameters": pairs[1:]}, "lacks"),
            ({"named_parameters": [("a", value) for _, value in pairs]}, "more than once"),
            ({"named_parameters": ["0.weight"]}, "pairs of name and parameter")):
        with pytest.raises(ValueError, match=message):
            hvd.DistributedOptimizer(sgd, **named)
