"""The claims about devices, on the CPU; tools/test-gpu has them and the others on a GPU. And how CUDA
tensors are read, of which none is needed."""

import importlib.machinery
import importlib.util
import json
import sys

import pytest
from jobs import HERE
from programs.claims import names


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("module, claim", [
    (module, claim) for module in ("programs.devices", "programs.device_training")
    for claim in names(module)])
def test_devices(claims, ranks, module, claim):
    claims.check(ranks, module, claim)


@pytest.mark.parametrize("claim", names("programs.exchange"))
def test_cuda_tensors_are_read(claims, claim):
    claims.check(2, "programs.exchange", claim)


@pytest.fixture
def test_gpu(monkeypatch):
    """tools/test-gpu as a module."""
    tools = HERE.parent.parent / "tools"
    monkeypatch.setattr(sys, "path", [str(tools), *sys.path])
    loader = importlib.machinery.SourceFileLoader("test_gpu_tool", str(tools / "test-gpu"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    loader.exec_module(module)
    return module


def test_a_gpus_report_has_what_was_measured_before_the_time_ended(test_gpu, tmp_path):
    path = tmp_path / "new" / "report.json"
    report = test_gpu.Report(path, 1000.0)
    assert report.has_time_for("all of it") and report.limit(30) == 30
    report.parts["first"] = 1
    report.count("good", True)
    report.write()
    late = test_gpu.Report(path, 5.0)
    late.parts, late.passed = report.parts, report.passed
    assert 1.0 <= late.limit(30) <= 5.0
    assert not late.has_time_for("the second")
    assert json.loads(path.read_text()) == {"first": 1, "passed": 1, "failed": [],
                                            "skipped": ["the second: no time was left (--within)"]}
    assert [entry.name for entry in path.parent.iterdir()] == ["report.json"]


def test_parts_of_a_gpus_report_that_there_are_not_are_named(test_gpu, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["test-gpu", "--only", "kernels,ranx"])
    with pytest.raises(SystemExit):
        test_gpu.parse_options()
    assert "'ranx' is none of kernels,bench,ranks," in capsys.readouterr().err
