"""Claims about training on a device beside the same on the CPU. Each function is called on every rank,
in this order."""

import contextlib
import copy
import os
import pathlib
import sys

import torch
from programs.claims import device_at_work
from torch import nn

import scalecom.torch as hvd

sys.path.append(str(pathlib.Path(__file__).resolve().parents[3] / "docs" / "examples"))

import fashion_mnist_data  # noqa: E402

STEPS = 12
IMAGES = 1024


def _place():
    return torch.get_default_device()


def _model(place, dtype=torch.float32):
    generator = torch.Generator().manual_seed(5)
    model = nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(),
                          nn.Linear(64, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu") * 0.2)
    return model.to(place, dtype)


def _batch(step, place, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1000 + step * hvd.size() + hvd.rank())
    inputs = torch.randn(16, 20, generator=generator, device="cpu")
    return inputs.to(place, dtype), inputs[:, :3].sin().to(place, dtype)


def _loss(model, step, place, dtype=torch.float32):
    inputs, targets = _batch(step, place, dtype)
    return (model(inputs) - targets).float().square().mean()


def _named(model, prefix):
    return [(prefix + name, parameter) for name, parameter in model.named_parameters()]


def _wrap(model, prefix, compression=hvd.Compression.none):
    return hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
                                    _named(model, prefix), compression)


def _train(model, prefix, compression, steps, loss_of):
    """Losses of the ranks' mean, in each step."""
    optimizer = _wrap(model, prefix, compression)
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of(step)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().cpu())
    return hvd.allreduce(torch.stack(losses), name=f"losses of {prefix}")


def _losses(place, prefix, compression):
    model = _model(place)
    return _train(model, prefix, compression, STEPS, lambda step: _loss(model, step, place))


def _assert_same_bits(model):
    for name, value in model.state_dict().items():
        bits = value.reshape(1, -1).view(torch.uint8)
        everyone = hvd.allgather(bits, name=f"bits of {name}")
        assert (everyone == everyone[0]).all(), name


def the_loss_falls_as_on_the_cpu():
    """Dense: to the rounding of float32. Compressed: another rounding may choose another element of
    two that are as large; a curve that is off by more than a twentieth is another algorithm's."""
    modes = [(f"{mode} ", hvd.Compression.scalecom(rate=8, beta=0.5, mode=mode, min_elements=100))
             for mode in ("cyclic", "sharded", "hierarchical")]
    for label, compression in [("dense ", hvd.Compression.none), *modes]:
        here = _losses(torch.device("cpu"), f"cpu {label}", compression)
        there = _losses(_place(), f"device {label}", compression)
        assert there[-3:].mean() < 0.9 * there[0], (label, there)
        slack = 1e-4 if label == "dense " else 0.05
        assert torch.allclose(there, here, rtol=slack), (label, there, here)


def _images():
    """The first of Fashion-MNIST's test images, normalised, and their labels, on the CPU: as the examples
    find them, or in the folder that tools/test-gpu has brought."""
    folder = os.environ.get("FASHION_MNIST_FOLDER")
    if folder:
        fashion_mnist_data.FASHION_MNIST = pathlib.Path(folder)
    is_there = fashion_mnist_data.FASHION_MNIST.is_dir()
    images, labels, *_ = (fashion_mnist_data.read_part("t10k") if is_there
                          else fashion_mnist_data.read_digits())
    with torch.device("cpu"):
        inputs = torch.from_numpy(images[:IMAGES].copy()).float().unsqueeze(1)
        return (inputs - 72.9) / 90.0, torch.from_numpy(labels[:IMAGES]).long()


def _image_losses(place, prefix, compression, images, labels):
    """As _losses(), of a convolutional network."""
    with torch.device("cpu"):
        torch.manual_seed(7)
        model = nn.Sequential(nn.Conv2d(1, 8, 5, stride=2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                              nn.Linear(8 * 36, 64), nn.ReLU(), nn.Linear(64, 10))
    model.to(place)
    parts = torch.arange(IMAGES, device="cpu").split(64)

    def loss_of(step):
        mine = parts[step % len(parts)][hvd.rank()::hvd.size()]
        return nn.functional.cross_entropy(model(images[mine].to(place)), labels[mine].to(place))

    return _train(model, prefix, compression, 2 * STEPS, loss_of)


def images_are_learnt_as_on_the_cpu():
    images, labels = _images()
    for label, compression, slack in (
            ("dense images ", hvd.Compression.none, 0.01),
            ("sparse images ", hvd.Compression.scalecom(rate=16, beta=0.5, min_elements=1000), 0.05)):
        here = _image_losses(torch.device("cpu"), f"cpu {label}", compression, images, labels)
        there = _image_losses(_place(), f"device {label}", compression, images, labels)
        assert there[-6:].mean() < 0.7 * there[:2].mean(), (label, there)
        assert torch.allclose(there, here, rtol=slack), (label, there, here)


def gradients_of_16_bits_train():
    for dtype in (torch.float16, torch.bfloat16):
        model = _model(_place(), dtype)
        compression = hvd.Compression.scalecom(rate=8, beta=0.5, values="float16", min_elements=100)
        optimizer = _wrap(model, f"{dtype} ", compression)
        losses = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss = _loss(model, step, _place(), dtype)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert sum(losses[-3:]) / 3 < losses[0], losses
        _assert_same_bits(model)
        assert hvd.compression_state()[f"{dtype} 2.weight"].abs().sum() > 0


def a_backward_pass_on_another_stream_is_reduced():
    if _place().type != "cuda":
        return
    model, alone = _model(_place()), _model(_place())
    optimizer = _wrap(model, "another stream ")
    gradients = []
    for rank in range(hvd.size()):
        generator = torch.Generator().manual_seed(1000 + rank)
        inputs = torch.randn(16, 20, generator=generator, device="cpu").to(_place())
        alone.zero_grad()
        (alone(inputs) - inputs[:, :3].sin()).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in alone.parameters()])
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(40_000_000)
        _loss(model, 0, _place()).backward()
    optimizer.synchronize()  # On the default stream.
    for parameter, *parts in zip(model.parameters(), *gradients):
        mean = torch.stack(parts).mean(0)
        assert torch.allclose(parameter.grad, mean, rtol=1e-3, atol=1e-5)


def gradients_of_two_streams_are_reduced():
    """Small ones, that go together where they are of one stream."""
    if _place().type != "cuda":
        return
    streams = [torch.cuda.Stream() for _ in range(2)]

    def backward(layers, rank, delay):
        values, before = torch.full((4, 20), rank + 1.0), torch.cuda.current_stream()
        for place, layer in enumerate(layers):
            stream = streams[place % 2]
            stream.wait_stream(before)
            with torch.cuda.stream(stream):
                values = layer(values).tanh()
                values.register_hook(lambda _: torch.cuda._sleep(delay))
            before = stream
        with torch.cuda.stream(before):
            values.square().mean().backward()
        for stream in streams:
            torch.cuda.current_stream().wait_stream(stream)
        return [layer.weight.grad.clone() for layer in layers]

    torch.manual_seed(5)
    model = nn.Sequential(*[nn.Linear(20, 20) for _ in range(6)])
    gradients = []
    for rank in range(hvd.size()):
        model.zero_grad()
        gradients.append(backward(model, rank, 0))
    model.zero_grad()
    optimizer = _wrap(model, "two streams ")
    for _ in range(2):
        optimizer.zero_grad()
        torch.cuda.synchronize()
        backward(model, hvd.rank(), 10_000_000)
        optimizer.synchronize()
        for layer, *parts in zip(model, *gradients):
            assert torch.allclose(layer.weight.grad, torch.stack(parts).mean(0), rtol=1e-3,
                                  atol=1e-6)


def a_step_goes_in_bursts_and_does_not_wait_for_the_device():
    for prefix, compression in (("dense", hvd.Compression.none),
                                ("short", hvd.Compression.bf16),
                                ("sparse", hvd.Compression.scalecom(rate=8, min_elements=100))):
        model = _model(_place())
        optimizer = _wrap(model, f"unwaited {prefix} ", compression)
        for step in range(3):
            optimizer.zero_grad()
            loss = _loss(model, step, _place())
            # In the first step, memory is allocated for all that come.
            with device_at_work() if step > 0 else contextlib.nullcontext():
                loss.backward()
                assert not optimizer._scalecom.pending, "six gradients are a burst"
                assert len(optimizer._scalecom.collected) == 6
                optimizer.step()
        _assert_same_bits(model)


def a_scaler_skips_an_infinite_step_on_every_rank():
    model = _model(_place())
    optimizer = _wrap(model, "scaled ", hvd.Compression.scalecom(rate=8, beta=0.5, min_elements=100))
    scaler = torch.amp.GradScaler(_place().type, init_scale=8.0, growth_interval=1000)
    for step in range(6):
        before = copy.deepcopy(model.state_dict())
        residual = hvd.compression_state().get("scaled 2.weight")
        optimizer.zero_grad()
        is_void = step == 3
        loss = _loss(model, step, _place())
        if is_void and hvd.rank() == hvd.size() - 1:
            loss = loss * float("inf")
        scaler.scale(loss).backward()
        optimizer.synchronize()
        scaler.unscale_(optimizer)
        with optimizer.skip_synchronize():
            scaler.step(optimizer)
        scaler.update()
        is_unchanged = all(torch.equal(value, before[name])
                           for name, value in model.state_dict().items())
        assert is_unchanged == is_void, step
        assert scaler.get_scale() == (4.0 if step >= 3 else 8.0)
        if is_void:
            kept = hvd.compression_state()["scaled 2.weight"]
            assert torch.allclose(kept, residual, rtol=0.0, atol=1e-5)  # To rounding.
    _assert_same_bits(model)


def a_checkpoint_holds_residuals_and_goes_on():
    def make():
        model = _model(_place())
        return model, _wrap(model, "checked ",
                            hvd.Compression.scalecom(rate=8, beta=0.5, min_elements=100))

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            _loss(model, step, _place()).backward()
            optimizer.step()

    model, optimizer = make()
    train(model, optimizer, range(4))
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    train(model, optimizer, range(4, 8))
    resumed, optimizer = make()
    resumed.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    train(resumed, optimizer, range(4, 8))
    for value, other in zip(resumed.parameters(), model.parameters()):
        assert torch.allclose(value, other, rtol=1e-5, atol=1e-6)
