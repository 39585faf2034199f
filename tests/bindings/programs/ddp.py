"""Claims about ddp_hook, whose models send parameters and bucket layouts by a group of torch's own. Each
function is called on every rank, in this order."""

import pickle

import pytest
import torch
from programs.claims import device_at_work
from programs.process_groups import over
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import scalecom.torch as hvd


class _Net(nn.Module):
    """Names start with `prefix`, so that no other model's residuals are used."""

    def __init__(self, prefix, channels_last=False):
        super().__init__()
        torch.manual_seed(5)
        conv = nn.Conv2d(3, 8, 3)
        if channels_last:
            conv = conv.to(memory_format=torch.channels_last)
        self.add_module(prefix, nn.ModuleList([conv, nn.Linear(8 * 36, 50), nn.Linear(50, 4)]))
        self._prefix = prefix

    def forward(self, inputs):
        conv, hidden, last = self._modules[self._prefix]
        return last(torch.tanh(hidden(torch.relu(conv(inputs)).flatten(1))))


def _train(model, optimizer, steps, first=0):
    """Steps on 12 samples, of which each rank has its own."""
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        inputs, targets = (torch.randn(shape, generator=generator, device="cpu")
                           .to(torch.get_default_device())[hvd.rank()::hvd.size()]
                           for shape in ((12, 3, 8, 8), (12, 4)))
        optimizer.zero_grad()
        (model(inputs) - targets).square().mean().backward()
        optimizer.step()


def _sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


# Small buckets: there are several, and DistributedDataParallel rebuilds them after the first step.
def _ddp(net, state=None, hook=hvd.ddp_hook):
    model = DistributedDataParallel(net, bucket_cap_mb=0.02)
    if state is not False:
        model.register_comm_hook(state or hvd.DDPState(model), hook)
    return model


def _compression():
    return hvd.Compression.scalecom(rate=10, beta=0.5, rates={"*.2.weight": 4}, min_elements=100)


def _is_close(one, other):
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6)
               for a, b in zip(one.parameters(), other.parameters()))


def without_compression_training_equals_torchs_own():
    with over("gloo"):
        plain, hooked = _Net("plain"), _Net("hooked")
        model = _ddp(plain, False)
        _train(model, _sgd(model), 4)
        model = _ddp(hooked)
        _train(model, _sgd(model), 4)
        assert _is_close(plain, hooked)
        half = _Net("halves")
        model = DistributedDataParallel(half, bucket_cap_mb=0.02)
        model.register_comm_hook(hvd.DDPState(model, hvd.Compression.fp16), hvd.ddp_hook)
        _train(model, _sgd(model), 4)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-2)
                   for a, b in zip(plain.parameters(), half.parameters()))


def residuals_outlive_the_buckets_as_in_distributed_optimizer():
    with over("gloo"):
        wrapped, hooked = _Net("wrapped"), _Net("compressed")
        optimizer = hvd.DistributedOptimizer(_sgd(wrapped), wrapped.named_parameters(),
                                             compression=_compression())
        _train(wrapped, optimizer, 6)
        model = DistributedDataParallel(hooked, bucket_cap_mb=0.02)
        model.register_comm_hook(hvd.DDPState(model, _compression()), hvd.ddp_hook)
        _train(model, _sgd(model), 6)
        assert _is_close(wrapped, hooked)
        state = hvd.compression_state()
        for parameter in ("0.weight", "1.weight", "2.weight"):
            assert torch.allclose(state[f"wrapped.{parameter}"], state[f"compressed.{parameter}"],
                                  rtol=1e-4, atol=1e-6)
            assert state[f"compressed.{parameter}"].abs().max() > 0


def a_channels_last_parameter_is_reduced_in_its_own_order():
    with over("gloo"):
        plain, hooked = _Net("rows", channels_last=True), _Net("columns", channels_last=True)
        model = _ddp(plain, False)
        _train(model, _sgd(model), 3)
        model = _ddp(hooked)
        _train(model, _sgd(model), 3)
        assert _is_close(plain, hooked)
        model = DistributedDataParallel(_Net("saved", channels_last=True))
        state = hvd.DDPState(model, _compression())
        model.register_comm_hook(state, hvd.ddp_hook)
        _train(model, _sgd(model), 2)
        saved = state.state_dict()
        assert saved["residuals"]["saved.0.weight"].shape == (8, 3, 3, 3)
        state.load_state_dict(saved)
        assert torch.equal(hvd.compression_state()["saved.0.weight"],
                           saved["residuals"]["saved.0.weight"])


def models_of_different_names_share_no_residuals():
    with over("gloo"):
        nets = [nn.Linear(64, 64, bias=False) for _ in range(2)]
        models = []
        for net, name in zip(nets, ("first.", "second.")):
            models.append(DistributedDataParallel(net))
            state = hvd.DDPState(models[-1], hvd.Compression.scalecom(rate=8), name=name)
            models[-1].register_comm_hook(state, hvd.ddp_hook)
        models[0](torch.ones(1, 64)).sum().backward()
        (models[1](torch.ones(1, 64)).sum() * 0.0).backward()
        assert nets[0].weight.grad.abs().max() > 0 and nets[1].weight.grad.abs().max() == 0
        assert {"first.weight", "second.weight"} <= set(hvd.compression_state())


def models_of_one_name_are_refused_when_they_take_turns():
    with over("gloo"):
        models = [DistributedDataParallel(nn.Linear(64, 64, bias=False)) for _ in range(2)]
        for model in models:
            state = hvd.DDPState(model, hvd.Compression.scalecom(rate=8), name="turns.")
            model.register_comm_hook(state, hvd.ddp_hook)
            model(torch.ones(1, 64)).sum().backward()
        with pytest.raises(ValueError, match="turns.weight: gradients of two parameters.*`name`"):
            models[0](torch.ones(1, 64)).sum().backward()


def models_of_one_name_are_refused_in_one_backward_pass():
    with over("gloo"):
        models = [DistributedDataParallel(nn.Linear(64, 64, bias=False)) for _ in range(2)]
        for model in models:
            model.register_comm_hook(hvd.DDPState(model, name="at once."), hvd.ddp_hook)
        for _ in range(2):  # One behind the other they may have one name.
            for model in models:
                model(torch.ones(1, 64)).sum().backward()
        with pytest.raises(ValueError, match="at once.weight: the gradient of another parameter.*`name`"):
            sum(model(torch.ones(1, 64)).sum() for model in models).backward()


def a_backward_pass_does_not_wait_for_the_device():
    with over("gloo"):
        model = DistributedDataParallel(_Net("unwaited"), bucket_cap_mb=0.02)
        model.register_comm_hook(hvd.DDPState(model, _compression()), hvd.ddp_hook)
        _train(model, _sgd(model), 3)
        loss = model(torch.ones(2, 3, 8, 8)).square().mean()
        with device_at_work():
            loss.backward()
        gradient = model.module.unwaited[0].weight.grad
        assert torch.equal(gradient, hvd.broadcast(gradient, 0))


def a_state_from_before_the_first_step_takes_residuals_and_steps_back():
    with over("gloo"):
        model = DistributedDataParallel(_Net("rolled"))
        state = hvd.DDPState(model, _compression())
        model.register_comm_hook(state, hvd.ddp_hook)
        saved = state.state_dict()
        _train(model, _sgd(model), 2)
        state.load_state_dict(saved)
        assert hvd.compression_state()["rolled.1.weight"].abs().max() == 0
        assert hvd.compression_steps()["rolled.1.weight"] == 0


def another_compression_takes_effect_at_the_next_step_and_nothing_is_lost():
    with over("gloo"):
        net = nn.Linear(64, 64, bias=False)
        model = DistributedDataParallel(net)
        state = hvd.DDPState(model, hvd.Compression.scalecom(rate=64, beta=0.5), name="policy.")
        model.register_comm_hook(state, hvd.ddp_hook)
        given, got = torch.zeros(2, 64, 64, dtype=torch.float64)
        for step, (compression, selected) in enumerate((
                (None, 64), (hvd.Compression.scalecom(rate=8, beta=0.1), 512), (hvd.Compression.none, 4096),
                (hvd.Compression.scalecom(rates={"weight": 16}), 256))):
            if compression is not None:
                state.compression = compression
            generator = torch.Generator().manual_seed(10 * step + hvd.rank())
            gradient = torch.randn(64, 64, generator=generator, device="cpu").to(net.weight.device)
            net.weight.grad = None
            (model(torch.eye(64)) * gradient.t()).sum().backward()
            assert (net.weight.grad != 0).sum() == selected, step
            given += gradient.double()
            got += net.weight.grad.double()
        owed = hvd.compression_state()["policy.weight"].to(given)
        assert torch.allclose(got, hvd.allreduce(given - owed), atol=1e-5)
        with pytest.raises(ValueError, match="'nowhere' of rates matches no parameter"):
            state.compression = hvd.Compression.scalecom(rates={"nowhere": 2})
        assert "16" in repr(state.compression)


def a_reduction_that_fails_ends_the_backward_pass_with_its_text():
    if hvd.size() == 1:
        return
    with over("gloo"):
        net = nn.Linear(64, 64, bias=False)
        model = DistributedDataParallel(net)
        rate = 8 if hvd.rank() == 0 else 9  # What ranks must agree on.
        state = hvd.DDPState(model, hvd.Compression.scalecom(rate=rate), name="apart.")
        model.register_comm_hook(state, hvd.ddp_hook)
        with pytest.raises(RuntimeError, match="compression differs between ranks"):
            model(torch.ones(1, 64)).sum().backward()


def a_pickled_state_goes_on_where_it_stopped():
    with over("gloo"):
        through, stopped = _Net("through"), _Net("stopped")
        model = DistributedDataParallel(through, bucket_cap_mb=0.02)
        model.register_comm_hook(hvd.DDPState(model, _compression()), hvd.ddp_hook)
        _train(model, _sgd(model), 5)
        model = DistributedDataParallel(stopped, bucket_cap_mb=0.02)
        state = hvd.DDPState(model, _compression())
        model.register_comm_hook(state, hvd.ddp_hook)
        optimizer = _sgd(model)
        _train(model, optimizer, 2)
        saved = pickle.dumps(state)
        weights = {name: value.clone() for name, value in stopped.state_dict().items()}
        momenta = optimizer.state_dict()
        momenta = pickle.loads(pickle.dumps(momenta))
        _train(model, optimizer, 2, first=2)  # What a crash loses.
        stopped.load_state_dict(weights)
        resumed = pickle.loads(pickle.dumps(pickle.loads(saved)))
        with pytest.raises(ValueError, match="call attach"):
            resumed.name_of(None)
        with pytest.raises(ValueError, match="unknown here: is this the checkpoint of another model"):
            resumed.attach(_Net("another"))  # And it has all that it had.
        resumed.attach(model)
        model = DistributedDataParallel(stopped, bucket_cap_mb=0.02)
        model.register_comm_hook(resumed, hvd.ddp_hook)
        optimizer = _sgd(model)
        optimizer.load_state_dict(momenta)
        _train(model, optimizer, 3, first=2)
        assert _is_close(through, stopped)


def wrong_use_is_refused_with_what_to_do():
    net = _Net("wrong")
    with pytest.raises(ValueError, match="takes Average or Sum"):
        hvd.DDPState(net, op=hvd.Max)
    with pytest.raises(ValueError, match="'nowhere' of rates matches no parameter"):
        hvd.DDPState(net, hvd.Compression.scalecom(rates={"nowhere": 2}))
    with pytest.raises(ValueError, match="compression is 7; allowed are"):
        hvd.DDPState(net, 7)
    state = hvd.DDPState(net)
    with pytest.raises(ValueError, match=r"shape \(2,\) is not of the model"):
        state.name_of(torch.zeros(2))
    other = {"residuals": {"wrong.1.weight": torch.ones(50, 288), "wrong.0.weight": torch.zeros(5)}, "steps": {}}
    for broken, message in ((other, "wrong.0.weight has shape .5,.*another model"),
                            ({}, "saved state is {}; a dict with 'residuals' and 'steps'")):
        with pytest.raises(ValueError, match=message):
            state.load_state_dict(broken)
        assert "wrong.1.weight" not in hvd.compression_state()
    with pytest.raises(ValueError, match="model is None; a torch.nn.Module"):
        hvd.DDPState(None)
    with over("gloo"):
        net = nn.Embedding(10, 2, sparse=True)
        model = DistributedDataParallel(net)
        model.register_comm_hook(hvd.DDPState(model), hvd.ddp_hook)
        with pytest.raises(ValueError, match="gradient of weight is sparse.*sparse=False"):
            model(torch.tensor([hvd.rank()])).sum().backward()
        model = DistributedDataParallel(_Net("unused"), find_unused_parameters=True)
        with pytest.raises(ValueError, match="find_unused_parameters is set.*Compression.none"):
            hvd.DDPState(model, _compression())
