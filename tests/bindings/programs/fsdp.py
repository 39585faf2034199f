"""Claims about register_fsdp_hook, on pairs of ranks that hold the same shards. Each function is called
on every rank, in this order."""

import gc

import pytest
import torch
import torch.distributed as dist
from programs import ddp
from programs.claims import device_at_work
from programs.process_groups import mesh_of, over
from torch import nn

import scalecom.torch as hvd


def _mesh(**named):
    """2 replicas, each of half the ranks."""
    return mesh_of(2, hvd.size() // 2, mesh_dim_names=("replicate", "shard"), **named)


def _sharded(net, mesh):
    from torch.distributed.fsdp import fully_shard
    fully_shard(net._modules[net._prefix][1], mesh=mesh)
    return fully_shard(net, mesh=mesh)


def _values(net):
    return [parameter.full_tensor() for parameter in net.parameters()]


def _are_close(one, other):
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(one, other, strict=True))


def _trained_natively(mesh):
    native = _sharded(ddp._Net("native"), mesh)
    ddp._train(native, ddp._sgd(native), 4)
    return _values(native)


def dense_and_at_rate_1_it_trains_as_torchs_own_all_reduce():
    with over("scalecom"):
        mesh = _mesh()
        wanted = _trained_natively(mesh)
        for name, compression in (
                ("dense", hvd.Compression.none),
                ("one", hvd.Compression.scalecom(rates={"*": 1}))):
            net = _sharded(ddp._Net(name), mesh["shard"])
            hvd.register_fsdp_hook(net, mesh.get_group("replicate"), compression)
            ddp._train(net, ddp._sgd(net), 4)
            assert _are_close(_values(net), wanted), name


def the_shard_dimension_may_be_gloos():
    if torch.get_default_device().type != "cpu":
        return  # Gloo reduces and scatters tensors of the CPU.
    with over("gloo"):
        mesh = _mesh(backend_override={"replicate": "scalecom"})
        wanted = _trained_natively(mesh)
        net = _sharded(ddp._Net("gloos"), mesh["shard"])
        hvd.register_fsdp_hook(net, mesh.get_group("replicate"))
        ddp._train(net, ddp._sgd(net), 4)
        assert _are_close(_values(net), wanted)


class _Scaled(nn.Sequential):
    """fully_shard lays its own parameter out behind those of its parts, and pads the second's."""

    def __init__(self):
        super().__init__(nn.Linear(30, 50, bias=False), nn.Linear(50, 7))
        self.scale = nn.Parameter(torch.ones(30))
        for parameter in self.parameters():
            dist.broadcast(parameter.detach(), 0)

    def forward(self, inputs):
        return super().forward(inputs * self.scale)


def _gradients(net, step):
    """This rank's parts of two, of inputs that are the rank's number and more."""
    net.zero_grad()
    net(torch.full((1, 30), hvd.rank() + step + 1.0)).sum().backward()
    return {"0.weight": net[0].weight.grad.to_local().clone(),
            "scale": net.scale.grad.to_local().clone()}


def what_is_not_delivered_is_owed_by_the_parameter_and_goes_on_from_a_state():
    from torch.distributed.fsdp import fully_shard
    with over("scalecom"):
        mesh = _mesh()
        net = _Scaled()
        rows = net[1].weight.detach().sum(0)
        inputs = sum((hvd.size() - 1) / 2 + step + 1.0 for step in range(5))
        given = {"0.weight": rows.unsqueeze(1).expand(50, 30) * inputs,
                 "scale": rows @ net[0].weight.detach() * inputs}
        fully_shard(net, mesh=mesh["shard"])
        state = hvd.register_fsdp_hook(net, mesh.get_group("replicate"), hvd.Compression.scalecom(
            rates={"0.weight": 10, "scale": 3, "1.*": None}, beta=0.5), name="owed.")
        delivered, saved = [], None
        for step in range(5):
            if step == 3:
                saved = state.state_dict()
            delivered.append(_gradients(net, step))
            assert all((gradient == 0).any() for gradient in delivered[-1].values())
        residuals = state.state_dict()["residuals"]
        assert set(residuals) == {f"owed.{name}" for name in given}
        for name, whole in given.items():
            part = whole.chunk(mesh.size(1))[mesh.get_local_rank("shard")]
            owed = residuals[f"owed.{name}"][:part.numel()].to(part.device).view_as(part) / 0.5
            dist.all_reduce(owed, dist.ReduceOp.AVG, group=mesh.get_group("replicate"))
            total = sum(gradients[name] for gradients in delivered) + owed
            assert torch.allclose(total, part, rtol=1e-4, atol=1e-4), name
        state.load_state_dict(saved)
        for step in (3, 4):
            for name, gradient in _gradients(net, step).items():
                assert torch.equal(gradient, delivered[step][name])


class _Language(nn.Module):
    """Its output layer is its embedding, of which fully_shard pads the rows, and its blocks are one."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(21, 32)
        block = nn.Linear(32, 32)
        self.blocks = nn.Sequential(block, nn.Tanh(), block)
        self.head = nn.Linear(32, 21, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        return self.head(self.blocks(self.embedding(words)))


def _language_gradients(net):
    """This rank's parts, by name, of a backward pass in which the ranks have different words."""
    words = (torch.arange(30) * (hvd.rank() + 2)) % 21
    nn.functional.cross_entropy(net(words[:-1]), words[1:]).backward()
    return {name: parameter.grad.to_local() for name, parameter in net.named_parameters()}


def what_is_tied_is_reduced_once_and_the_plan_is_of_shards():
    from torch.distributed.fsdp import fully_shard
    with over("scalecom"):
        mesh = _mesh()
        wanted = _language_gradients(fully_shard(_Language(), mesh=mesh))
        net = fully_shard(_Language(), mesh=mesh["shard"])
        shards = mesh.size(1)
        compression = hvd.Compression.scalecom(rate=4, rates={"embedding.*": None},
                                               min_elements=1024 // shards)
        hvd.register_fsdp_hook(net, mesh.get_group("replicate"), compression)
        found = _language_gradients(net)
        weight = found.pop("blocks.0.weight")
        is_delivered = weight != 0
        assert 0 < is_delivered.sum() <= weight.numel() // 4
        weight_of_all = wanted.pop("blocks.0.weight")
        assert torch.allclose(weight[is_delivered], weight_of_all[is_delivered], atol=1e-6)
        assert found.keys() == wanted.keys()
        assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in found)
        state = hvd.register_fsdp_hook(net, mesh.get_group("replicate"), compression, name="again.")
        gc.collect()  # Of the states of groups that have ended.
        for min_elements, rate in ((1024 // shards, 4), (1024 // shards + 1, None)):
            state.compression = hvd.Compression.scalecom(rate=4, rates={"embedding.*": None},
                                                         min_elements=min_elements)
            plan = {row["name"]: row for row in hvd.compression_plan()}
            assert {name: (row["elements"], row["rate"]) for name, row in plan.items()} == {
                "embedding.weight": (-(-21 // shards) * 32, None),
                "blocks.0.weight": (1024 // shards, rate), "blocks.0.bias": (32 // shards, None)}
            size = dist.get_world_size(mesh.get_group("replicate"))
            assert plan["blocks.0.bias"]["dense_bytes"] == 2 * (size - 1) * 32 // shards * 4 // size
        net.zero_grad()
        assert torch.allclose(_language_gradients(net)["blocks.0.weight"], weight_of_all, atol=1e-6)
        del state


def a_backward_pass_does_not_wait_for_the_device():
    with over("scalecom"):
        mesh = _mesh()
        net = _sharded(ddp._Net("unwaited"), mesh["shard"])
        hvd.register_fsdp_hook(net, mesh.get_group("replicate"), ddp._compression())
        ddp._train(net, ddp._sgd(net), 3)
        loss = net(torch.ones(2, 3, 8, 8)).square().mean()
        with device_at_work():
            loss.backward()
        part = net.unwaited[1].weight.grad.to_local()
        mean = part.clone()
        dist.all_reduce(mean, dist.ReduceOp.AVG, group=mesh.get_group("replicate"))
        assert torch.allclose(part, mean)


def micro_batches_are_accumulated_without_reducing():
    with over("scalecom"):
        mesh = _mesh()
        native = _sharded(ddp._Net("whole"), mesh)
        net = _sharded(ddp._Net("micro"), mesh["shard"])
        hvd.register_fsdp_hook(net, mesh.get_group("replicate"))
        for step, is_last in enumerate((False, True)):
            for model in (native, net):
                model.set_requires_gradient_sync(is_last)
                model(torch.full((1, 3, 8, 8), hvd.rank() + step + 1.0)).square().sum().backward()
            assert all((parameter.grad is None) is not is_last for parameter in net.parameters())
        assert _are_close([parameter.grad.full_tensor() for parameter in net.parameters()],
                          [parameter.grad.full_tensor() for parameter in native.parameters()])


def what_differs_between_the_replicas_ends_the_backward_pass():
    with over("scalecom"):
        mesh = _mesh()
        net = _sharded(ddp._Net("apart"), mesh["shard"])
        is_first = mesh.get_local_rank("replicate") == 0
        hvd.register_fsdp_hook(net, mesh.get_group("replicate"),
                               hvd.Compression.scalecom(rates={"*": 8 if is_first else 9}))
        with pytest.raises(RuntimeError, match="compression differs between ranks"):
            net(torch.ones(1, 3, 8, 8)).sum().backward()


def wrong_use_is_refused_with_what_to_do():
    with over("scalecom"):
        mesh = _mesh()
        group = mesh.get_group("replicate")
        with pytest.raises(ValueError, match="fully_shard was applied to no module"):
            hvd.register_fsdp_hook(nn.Linear(2, 2), group)
        with pytest.raises(ValueError, match=r"dimensions \(replicate, shard\).*mesh\[\"shard\"\]"):
            hvd.register_fsdp_hook(_sharded(ddp._Net("both"), mesh), group)
        net = _sharded(ddp._Net("wrong"), mesh["shard"])
        with pytest.raises(ValueError, match="takes Average or Sum"):
            hvd.register_fsdp_hook(net, group, op=hvd.Max)
        hvd.register_fsdp_hook(net, group)
        net._modules["wrong"][2].bias.requires_grad_(False)
        with pytest.raises(ValueError, match="module '' reduces .*register it again"):
            net(torch.ones(1, 3, 8, 8)).sum().backward()
