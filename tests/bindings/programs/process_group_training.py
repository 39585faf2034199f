"""Claims about training, and about messages of two ranks, over torch.distributed's backend "scalecom".
Each function is called on every rank, in this order."""

import datetime

import pytest
import torch
import torch.distributed as dist
from programs import ddp
from programs.claims import is_cuda
from programs.process_groups import exchange_with_all, mesh_of, over
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import scalecom.torch as hvd


def _trained(backend, prefix, state_of=None):
    """A network after some steps with DistributedDataParallel over a backend, whose ranks agree."""
    with over(backend):
        net = ddp._Net(prefix)
        for parameter in net.parameters():
            parameter.data += hvd.rank()  # It starts with rank 0's.
        model = DistributedDataParallel(net, bucket_cap_mb=0.02)
        if state_of is not None:
            model.register_comm_hook(state_of(model), hvd.ddp_hook)
        ddp._train(model, ddp._sgd(model), 4)
        for parameter in net.parameters():
            assert torch.equal(parameter, hvd.broadcast(parameter.detach(), 0))
        return net


def ddp_trains_as_over_gloo():
    ours, gloos = _trained("scalecom", "ours"), _trained("gloo", "gloos")
    if hvd.size() <= 2:  # A sum of two has one order.
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), gloos.parameters()))
    assert ddp._is_close(ours, gloos)


def scalecoms_hook_works_as_over_gloo():
    nets = [_trained(backend, f"hook_{backend}",
                     lambda model: hvd.DDPState(model, ddp._compression()))
            for backend in ("scalecom", "gloo")]
    assert ddp._is_close(*nets)
    assert hvd.compression_state()["hook_scalecom.1.weight"].abs().max() > 0


def a_model_of_a_smaller_group_is_averaged_over_that_alone():
    if hvd.size() < 2:
        return
    with over("scalecom"):
        pair = dist.new_group([0, hvd.size() - 1])
        gloo = dist.new_group([0, hvd.size() - 1], backend="gloo")
        if hvd.rank() not in (0, hvd.size() - 1):
            return
        model = DistributedDataParallel(nn.Linear(40, 50, bias=False), process_group=pair)
        compression = hvd.Compression.scalecom(rates={"*": 10}, beta=1.0, warmup_steps=0)
        hook = hvd.DDPState(model, compression, name="pair.")
        model.register_comm_hook(hook, hvd.ddp_hook)
        total = torch.zeros(50, 40)
        for _ in range(3):
            model.zero_grad()
            model(torch.full((1, 40), hvd.rank() + 1.0)).sum().backward()
            total += model.module.weight.grad
        owed = hook.state_dict()["residuals"]["pair.weight"].to(total.device, copy=True)
        dist.all_reduce(owed, dist.ReduceOp.AVG, group=pair)
        assert torch.allclose(total + owed, torch.full((50, 40), 3 * (1 + hvd.size()) / 2))
        if hvd.size() > 2:
            model = DistributedDataParallel(nn.Linear(4, 5), process_group=gloo)
            with pytest.raises(ValueError, match=f"process group has 2 ranks, the job {hvd.size()}"):
                hvd.DDPState(model)


def batch_norm_buffers_and_unused_parameters_are_handled():
    with over("scalecom"):
        net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        net.add_module("unused", nn.Identity())
        net.extra = nn.Parameter(torch.ones(3))
        model = DistributedDataParallel(net, find_unused_parameters=True)
        torch.manual_seed(hvd.rank())
        for _ in range(2):
            model(torch.randn(6, 4)).sum().backward()
        assert torch.equal(net[0].weight.grad, hvd.broadcast(net[0].weight.grad, 0))


def a_reduction_that_fails_ends_the_backward_pass_with_its_text():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        model = DistributedDataParallel(nn.Linear(4, 4))
        loss = model(torch.ones(1, 4)).sum()
        if hvd.rank() == 0:
            with pytest.raises(RuntimeError, match="operation differs between ranks"):
                loss.backward()
        else:
            with pytest.raises(RuntimeError, match="operation differs between ranks"):
                dist.broadcast(torch.ones(20), 0)


def _trained_by(prefix, wrap):
    net = wrap(ddp._Net(prefix))
    ddp._train(net, ddp._sgd(net), 3)
    return net


def fully_shard_on_a_mesh_trains_as_ddp():
    from torch.distributed.fsdp import fully_shard
    with over("scalecom"):
        mesh = mesh_of(hvd.size())

        def sharded(net):
            fully_shard(net.sharded[1], mesh=mesh)
            return fully_shard(net, mesh=mesh)

        net = _trained_by("sharded", sharded)
        whole = _trained_by("whole", DistributedDataParallel)
        for one, other in zip(net.parameters(), whole.parameters()):
            assert torch.allclose(one.full_tensor(), other, rtol=1e-5, atol=1e-6)


def a_mesh_gives_distributed_tensors():
    from torch.distributed.tensor import Shard, distribute_tensor
    with over("scalecom"):
        mesh = mesh_of(hvd.size())
        whole = torch.arange(24.0).reshape(12, 2)
        tensor = distribute_tensor(whole, mesh, [Shard(0)])
        assert torch.equal(tensor.full_tensor(), whole)
        assert tensor.sum().full_tensor().item() == whole.sum().item()


def _neighbours():
    return (hvd.rank() + 1) % hvd.size(), (hvd.rank() - 1) % hvd.size()


def torch_is_told_what_a_group_cannot():
    """batch_isend_irecv() of torch 2.14 asks."""
    with over("scalecom"):
        backend = dist.group.WORLD._get_backend(torch.get_default_device())
        assert not (backend.supports_coalescing or backend.supports_splitting or backend.supports_time_estimate)


def messages_arrive_whatever_the_tensors():
    if hvd.size() == 1:
        return
    behind, before = _neighbours()
    with over("scalecom"):
        exchange_with_all()
        for dtype in (torch.float64, torch.bfloat16, torch.int64, torch.bool, torch.complex64):
            for shape in ((), (0, 2), (70, 1000)):
                sent, came = torch.ones(shape).mul(hvd.rank()).to(dtype), torch.zeros(shape).to(dtype)
                for work in dist.batch_isend_irecv([dist.P2POp(dist.isend, sent, behind),
                                                    dist.P2POp(dist.irecv, came, before)]):
                    work.wait()
                assert torch.equal(came, torch.ones(shape).mul(before).to(dtype))
        came = torch.zeros(3, 2)
        work = dist.irecv(came.t()[:1], before)
        dist.isend(torch.full((6,), float(hvd.rank()))[::2], behind).get_future().wait()
        assert work.get_future().wait()[0].tolist() == [[before] * 3]
        assert came.tolist() == [[before, 0.0]] * 3 and work.source_rank() == before
        if hvd.rank() == 0:
            dist.send_object_list([{"from": 0}], 1)
        elif hvd.rank() == 1:
            told = [None]
            dist.recv_object_list(told, 0)
            assert told == [{"from": 0}]


def a_message_is_there_for_the_stream_that_waits():
    if hvd.size() == 1 or not is_cuda():
        return
    behind, before = _neighbours()
    with over("scalecom"):
        came = torch.zeros(1000, 2)
        dist.isend(torch.full((1000,), float(hvd.rank())), behind)
        torch.cuda._sleep(200_000_000)  # What came is copied behind it.
        work = dist.irecv(came.t()[:1], before)
        with torch.cuda.stream(torch.cuda.Stream()):
            work.wait()
            assert came[:, 0].tolist() == [before] * 1000


def messages_need_neither_the_other_ranks_nor_what_is_in_flight():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        tensor = torch.ones(2)
        if hvd.rank() == 0:
            work = dist.all_reduce(tensor, async_op=True)
            unmatched = dist.irecv(torch.zeros(1), 1, tag=3)
            dist.send(torch.full((5,), 3.0), 1)
            assert not work.is_completed() and not unmatched.is_completed()
            dist.send(torch.zeros(0), 1)
            work.wait()
            unmatched.wait()
        else:
            if hvd.rank() == 1:
                came = torch.zeros(5)
                assert dist.recv(came, 0) == 0 and came.tolist() == [3.0] * 5
                dist.recv(torch.zeros(0), 0)
                dist.send(torch.zeros(1), 0, tag=3)
            dist.all_reduce(tensor)
        assert tensor.tolist() == [hvd.size()] * 2


def what_two_ranks_say_of_a_message_differently_is_told_to_both():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        for mine, wrong in ((torch.ones(4), "shape differs.*4. on rank 0; .5. on rank 1"),
                            (torch.ones(5, dtype=torch.int32), "dtype differs between ranks")):
            if hvd.rank() == 0:
                with pytest.raises(RuntimeError, match=f"send to rank 1 with tag 0: .*{wrong}"):
                    dist.send(mine, 1)
            elif hvd.rank() == 1:
                with pytest.raises(RuntimeError, match=f"recv from rank 0 with tag 0: .*{wrong}"):
                    dist.recv(torch.ones(5), 0)
        if hvd.rank() == 0:
            dist.send(torch.ones(5), 1)  # The two go on.
        elif hvd.rank() == 1:
            dist.recv(torch.ones(5), 0)


def a_message_without_a_counterpart_is_told_in_time():
    if hvd.size() == 1:
        return
    with over("scalecom"):
        groups = dist.group.WORLD._messages
        groups._timeout = datetime.timedelta(milliseconds=200)
        if hvd.rank() == 0:  # The two have not met yet.
            with pytest.raises(RuntimeError, match="send to rank 1 with tag 5: rank 1 has not called recv"):
                dist.send(torch.ones(1), 1, tag=5)
        elif hvd.rank() == 1:
            with pytest.raises(RuntimeError, match="rank 0 has not called send.. to rank 1 .* again"):
                dist.recv(torch.ones(1), 0)
        hvd.barrier()


def a_pipeline_of_all_ranks_trains_as_the_whole_model():
    from torch.distributed import pipelining
    if hvd.size() == 1:
        return
    torch.manual_seed(7)
    layers = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(hvd.size())]
    inputs, targets = torch.randn(8, 6), torch.randn(8, 6)
    lossed = nn.MSELoss()
    lossed(nn.Sequential(*layers)(inputs), targets).backward()
    own = layers[hvd.rank()]
    wanted = [parameter.grad.clone() for parameter in own.parameters()]
    with over("scalecom"):
        for schedule_of in (pipelining.ScheduleGPipe, pipelining.Schedule1F1B):
            own.zero_grad()
            stage = pipelining.PipelineStage(own, hvd.rank(), hvd.size(), inputs.device)
            schedule = schedule_of(stage, n_microbatches=4, loss_fn=lossed)
            is_last = hvd.rank() == hvd.size() - 1
            schedule.step(*[inputs] * (hvd.rank() == 0), target=targets if is_last else None)
            for parameter, gradient in zip(own.parameters(), wanted):
                assert torch.allclose(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def a_compiled_model_trains_as_it_is():
    with over("scalecom"):
        eager = ddp._Net("eager")
        model = DistributedDataParallel(eager)
        ddp._train(model, ddp._sgd(model), 3)
        inside = ddp._Net("inside")
        model = DistributedDataParallel(torch.compile(inside, backend="aot_eager"))
        ddp._train(model, ddp._sgd(model), 3)
        outside = ddp._Net("outside")
        wrapped = DistributedDataParallel(outside)
        ddp._train(torch.compile(wrapped, backend="aot_eager"), ddp._sgd(wrapped), 3)
        hooked = ddp._Net("hooked_outside")
        wrapped = DistributedDataParallel(hooked)
        wrapped.register_comm_hook(hvd.DDPState(wrapped), hvd.ddp_hook)
        ddp._train(torch.compile(wrapped, backend="aot_eager"), ddp._sgd(wrapped), 3)
        for net in (inside, outside, hooked):
            assert ddp._is_close(net, eager)
