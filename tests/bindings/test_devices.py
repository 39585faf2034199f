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


@pytest.mark.parametrize("arguments, problem", [
    ("--only kernels,ranx", "'ranx' is none of kernels,bench,ranks,"),
    ("--collectives gloo", "'gloo' is none of host,nccl"),
    ("--claims devises", "'devises' is none of "),
    ("--ranks 2,0", "'0' is not allowed; it must be 1 or more"),
    ("--ranks two", "'two' is not allowed"), ("--within nan", "'nan' is not allowed; it must be 1 or more"),
    ("--device gpu:0", "'gpu:0' is not allowed; allowed are cpu, cuda,"),
    ("--pack there --build nowhere", "nowhere has no tests/gpu/gpu_kernels, "),
    ("--build .", "has no tests/gpu/gpu_kernels")])
def test_wrong_arguments_of_a_gpus_test_are_told_with_what_is_allowed(test_gpu, monkeypatch, capsys, arguments,
                                                                      problem):
    monkeypatch.setattr(sys, "argv", ["test-gpu", *arguments.split()])
    with pytest.raises(SystemExit):
        test_gpu.parse_options()
    assert problem in capsys.readouterr().err


_MACHINE = {"gpus": 0, "torch": "2.11", "torch_cuda": "13.0", "driver_cuda": "13.0"}


@pytest.mark.parametrize("arguments, machine, kept, skip", [
    ([], {"gpus": 1}, "kernels,bench,ranks,jax,tuner,kills,memory,jax-bench", ""),
    (["--device", "cpu"], {}, "kernels,bench,ranks,jax,tuner,kills,memory,jax-bench", ""),
    ([], {"torch_cuda": None}, "kernels,jax,jax-bench", "torch is built without CUDA"),
    ([], {"torch": None}, "kernels,jax,jax-bench", "torch cannot be used"),
    ([], {"driver_cuda": None}, "kernels", "jax-bench on ranks: torch sees no GPU")])
def test_jobs_that_need_a_gpu_are_left_out_where_there_is_none(test_gpu, monkeypatch, tmp_path, arguments, machine,
                                                               kept, skip):
    monkeypatch.setattr(sys, "argv", ["test-gpu", *arguments])
    options, report = test_gpu.parse_options(), test_gpu.Report(tmp_path / "report.json", 1000.0)
    test_gpu.leave_out_what_needs_a_gpu(report, options, {**_MACHINE, **machine})
    assert ",".join(options.only) == kept
    assert all(skip in line for line in report.skips) and len(report.skips) == bool(skip)


@pytest.fixture
def without_packages(test_gpu, monkeypatch, tmp_path):
    """A machine that has the tools of a build, but not fmt; nor a bundle yet."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("cmake", "ninja", "nvcc"):
        (tools / tool).write_text("#!/bin/sh\necho 'CMake Error at here:\n  no fmt\n\nCall Stack'; exit 1\n")
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    monkeypatch.setattr(test_gpu, "BUNDLE", tmp_path / "gpu")
    monkeypatch.setattr(test_gpu, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(sys, "argv", ["test-gpu"])
    return test_gpu


def test_what_was_packed_runs_where_packages_for_a_build_are_missing(without_packages):
    with pytest.raises(SystemExit, match="no fmt, and it has no programs; collect them"):
        without_packages.locate(without_packages.parse_options())
    for name in ("python", "libraries"):
        (without_packages.BUNDLE / name).mkdir(parents=True)
    (without_packages.BUNDLE / "gpu_kernels").touch()
    folder, source, _ = without_packages.locate(without_packages.parse_options())
    assert folder == without_packages.BUNDLE
    assert source.endswith("as it was packed: the build cannot be configured: CMake Error at here: no fmt")


def test_the_bundle_has_what_its_modules_import(test_gpu, monkeypatch, tmp_path):
    test_gpu.collect_modules(tmp_path)
    assert (tmp_path / "_pytest").is_dir()
    monkeypatch.setattr(test_gpu, "PYTHON_MODULES", ("pytest", "_pytest"))
    (tmp_path / "less").mkdir()
    with pytest.raises(SystemExit, match="needs what is not packed .*No module named"):
        test_gpu.collect_modules(tmp_path / "less")


@pytest.mark.parametrize("printed, gpus", [
    ('print("a warning"); print(\'{"torch": "2", "gpus": 1}\'); print("an end")', 1), ("print(1)", 0), ("exit(1)", 0)])
def test_torchs_facts_are_found_among_what_else_is_printed(test_gpu, monkeypatch, printed, gpus):
    monkeypatch.setattr(test_gpu, "TORCH_FACTS", printed)
    assert test_gpu.describe_torch()["gpus"] == gpus


@pytest.mark.parametrize("start, end, is_shared", [("exit 0", "exit 0", True), ("exit 0", "exec sleep 60", True),
                                                   ("exec sleep 60", "exit 0", False), ("exit 1", "exit 0", False)])
def test_mps_that_does_not_answer_ends_no_job(test_gpu, monkeypatch, tmp_path, start, end, is_shared):
    import mps
    control = tmp_path / mps.CONTROL
    control.write_text(f'#!/bin/sh\nif [ "$1" = -d ]; then {start}; fi\n{end}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_MPS_PIPE_DIRECTORY", raising=False)
    monkeypatch.setattr(mps, "LIMIT_S", 1)
    with mps.shared_gpu() as variables:
        assert bool(variables) == is_shared


# (--device, GPUs, ranks, JAX or torch) -> of each rank: its device, the GPUs that it sees, NCCL's host, MPS
@pytest.mark.parametrize("device, gpus, ranks, kind, wanted", [
    (None, 0, 1, "torch", [("cuda:0", None, "rank0", "pipe")]),
    (None, 1, 2, "torch", [("cuda:0", None, "rank0", "pipe"), ("cuda:0", None, "rank1", "pipe")]),
    (None, 2, 2, "torch", [("cuda:0", None, None, None), ("cuda:1", None, None, None)]),
    (None, 2, 2, "jax", [(None, "0", None, None), (None, "1", None, None)]),
    (None, 2, 3, "torch", [(f"cuda:{rank % 2}", None, f"rank{rank}", "pipe") for rank in range(3)]),
    ("cuda:1", 2, 2, "torch", [("cuda:1", None, f"rank{rank}", "pipe") for rank in range(2)]),
])
def test_ranks_share_a_gpu_where_there_is_none_for_each(test_gpu, monkeypatch, device, gpus, ranks, kind,
                                                        wanted):
    import gpu_jobs
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    kinds = {"torch": gpu_jobs.Places, "jax": gpu_jobs.JaxPlaces}
    places = kinds[kind](test_gpu.places(device, gpus).devices, {"CUDA_MPS_PIPE_DIRECTORY": "pipe"})
    assert [(places.arguments(rank).get("device"), places.variables(rank, ranks).get("CUDA_VISIBLE_DEVICES"),
             places.variables(rank, ranks).get("NCCL_HOSTID"),
             places.environment(ranks).get("CUDA_MPS_PIPE_DIRECTORY")) for rank in range(ranks)] == wanted


def test_a_rank_is_told_its_gpu(test_gpu, tmp_path):
    import gpu_jobs
    places = test_gpu.places(None, 2)
    job = gpu_jobs.start_ranks(places, tmp_path, 2, "builtins:dict", {"turns": 3}, "nccl", {})
    assert job.outcome().check() == [{"turns": 3, "device": f"cuda:{rank}"} for rank in range(2)]


def test_a_rank_that_dies_has_told_which_claims_failed_before(test_gpu, tmp_path):
    import gpu_jobs
    (tmp_path / "two_claims.py").write_text("import os\n\ndef fails():\n    assert not 'wrong'\n\n"
                                            "def dies():\n    os._exit(3)\n")
    job = gpu_jobs.start_ranks(test_gpu.places("cpu", 0), tmp_path, 1, "programs.claims:check_modules",
                               {"modules": ["two_claims"], "limit_s": 60}, "host", {"PYTHONPATH": str(tmp_path)})
    outcome = job.outcome()
    assert not outcome.values
    assert "two_claims.fails failed:" in outcome.output and "assert not 'wrong'" in outcome.output
