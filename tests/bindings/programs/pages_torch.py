"""The pages' blocks for PyTorch run as they are written. Each function is called on every rank of a job."""

import json
import pathlib
import types

import torch
from programs.pages import run
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

import scalecom.torch as hvd


def _trained(rate=4):
    """A model of the names in the pages that has made a step, and its optimizer."""
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("features", nn.Sequential(nn.Linear(32, 64)))
    model.add_module("classifier", nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)))
    optimizer = hvd.DistributedOptimizer(torch.optim.SGD(model.parameters(), lr=0.01), model.named_parameters(),
                                         compression=hvd.Compression.scalecom(rate=rate))
    _step(model, optimizer)
    return model, optimizer


def _step(model, optimizer):
    optimizer.zero_grad()
    model(torch.randn(4, 32)).square().mean().backward()
    optimizer.step()


def the_readmes_ten_lines_train():
    assert run("README", 0, {})["loss"].item() > 0


def residuals_are_saved_and_folded():
    model, optimizer = _trained()
    values = {"torch": torch, "hvd": hvd, "model": model, "optimizer": optimizer, "step": 1,
              "former_size": hvd.size()}
    run("checkpoints", 0, values)
    hvd.barrier()
    run("checkpoints", 1, values)
    assert len(values["saved"]) == hvd.size()
    _step(model, optimizer)


def residuals_of_calls_are_saved():
    hvd.allreduce(torch.ones(1000), name="called", compression=hvd.Compression.scalecom(rate=10))
    residuals, steps, _ = run("checkpoints", 3, {"hvd": hvd})["saved"]
    assert residuals["called"].shape == (1000,) and steps["called"] == 1


def rates_are_chosen():
    model, _ = _trained()
    pathlib.Path("rates.json").write_text(json.dumps({"features.0.*": None, "classifier.*": 400}))
    values = {"torch": torch, "hvd": hvd, "model": model, "images": torch.randn(4, 32)}
    run("choose-rates", 0, values)
    run("choose-rates", 1, values)
    assert set(values["rates"]) <= set(dict(model.named_parameters()))


def a_choice_is_changed_and_shown():
    model, optimizer = _trained()
    run("choose-rates", 2, {"hvd": hvd, "optimizer": optimizer})
    _step(model, optimizer)
    run("choose-rates", 4, {"hvd": hvd, "model": model, "images": torch.randn(4, 32),
                            "compression": hvd.Compression.scalecom(rate=4)})


def models_get_names_of_their_own():
    critic = nn.Linear(32, 64)
    keras = types.SimpleNamespace(layers=types.SimpleNamespace(Dense=lambda units, name: name))
    run("choose-rates", 3, {"hvd": hvd, "keras": keras, "critic": critic,
                            "critic_optimizer": torch.optim.SGD(critic.parameters(), lr=0.01),
                            "compression": hvd.Compression.scalecom(rate=4)})


def a_loop_commits():
    values = {"hvd": hvd, "DataLoader": DataLoader, "made": _trained, "taken": _step, "epochs": 2,
              "dataset": torch.randn(1280, 32)}
    run("elastic", 0, values, [("model, optimizer = ...", "model, optimizer = made()"),
                               ("...  ", "taken(state.model, state.optimizer)  ")])
    assert values["state"].epoch == 2


def a_timeline_is_written():
    run("read-a-timeline", 0, {"hvd": hvd, "some_steps": lambda: hvd.allreduce(torch.ones(4))},
        [("...  ", "some_steps()  ")])
    hvd.barrier()
    assert any(event.get("name") == "CYCLE_START" for event in json.loads(pathlib.Path("timeline.json").read_text()))


def replicas_and_shards_are_reduced():
    values = run("torch-distributed", 0, {})
    values.update(DistributedDataParallel=DistributedDataParallel, net=nn.Linear(32, 64))
    run("torch-distributed", 1, values)
    values["model"](torch.randn(4, 32)).sum().backward()
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    values.update(net=nn.Linear(32, 64), init_device_mesh=init_device_mesh, fully_shard=fully_shard)
    run("torch-distributed", 2, values, [("(2, 4)", f"({hvd.size()}, 1)")])
    values["net"](torch.randn(4, 32)).sum().backward()
    assert values["state"].state_dict()
    values["dist"].destroy_process_group()


def a_device_is_chosen_and_losses_are_scaled():
    values = {"torch": torch, "hvd": hvd, "Net": lambda: nn.Linear(32, 64)}
    if not torch.cuda.is_available():
        values["torch"] = types.SimpleNamespace(optim=torch.optim, cuda=types.SimpleNamespace(set_device=int))
        values["Net"] = lambda: types.SimpleNamespace(cuda=lambda: nn.Linear(32, 64))
    run("use-gpus", 0, values)
    device = next(values["model"].parameters()).device
    run("use-gpus", 1, {**values, "scaler": torch.amp.GradScaler(device.type),
                        "loss": values["model"](torch.randn(4, 32, device=device)).square().mean()})


def figures_of_compression_are_printed():
    run("watch-compression", 0, {"hvd": hvd})
