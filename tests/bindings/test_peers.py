"""Side-by-side measurement: scalecom-bench --peers, tools/bench/peers and what it makes of rounds."""

import importlib.util
import json
import pathlib
import re
import subprocess
import sys

import pytest
from conftest import mpirun_command, rank_environment, run_limited

BENCH = pathlib.Path(sys.executable).parent / "scalecom-bench"
TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools" / "bench"
PEERS = TOOLS / "peers"


@pytest.fixture
def report_module(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import peers_report
    return peers_report


@pytest.fixture
def worker_module(monkeypatch):
    monkeypatch.syspath_prepend(str(TOOLS))
    import peers_worker
    return peers_worker


def call_peers(*arguments, timeout=60):
    return subprocess.run([sys.executable, PEERS, *map(str, arguments)], check=False, text=True,
                          capture_output=True, timeout=timeout, env=rank_environment())


@pytest.mark.parametrize("tool, option, wrong", [
    ("bench/submit", "--tensors", "0"), ("bench/frameworks", "--calls", "-1"), ("bench/figures", "--rounds", "0"),
    ("bench/peers", "--calls", "-1"), ("test", "--jobs", "0")])
def test_tools_refuse_to_measure_nothing(tool, option, wrong):
    status, output = run_limited([sys.executable, TOOLS.parent / tool, option, wrong], 60, env=rank_environment())
    assert status == 2 and f"argument {option}: '{wrong}' is not allowed; it must be 1 or more" in output, output


def run_bench(*arguments, ranks=2):
    command = mpirun_command(ranks) if ranks else []
    return run_limited([*command, BENCH, "--peers", *map(str, arguments)], 60,
                       env=rank_environment())


def test_bench_times_mpi_beside_scalecom(tmp_path):
    path = tmp_path / "report.json"
    status, output = run_bench("-b", "4", "-e", "4K", "-f", "32", "-n", "5", "-w", "1", "--blocks",
                               "3", "-J", path)
    assert status == 0 and "Out of bounds values : 0 OK" in output, output
    report = json.loads(path.read_text())
    assert report["ranks"] == 2 and report["blocks"] == 3 and "MPI" in report["peer"]
    assert [row["size"] for row in report["results"]] == [4, 128, 4096]
    for row in report["results"]:
        for place in (row["out_of_place"], row["in_place"]):
            mine, mpi = (place[name]["time_us"] for name in ("scalecom", "mpi"))
            ratio = place["ratio"]
            assert len(mine["blocks"]) == len(mpi["blocks"]) == 3 and mine["min"] > 0
            assert ratio["blocks"] == pytest.approx(
                [peer / own for peer, own in zip(mpi["blocks"], mine["blocks"])])
            assert ratio["min"] <= ratio["median"] <= ratio["max"]
            assert f"{ratio['median']:.2f}" in output


@pytest.mark.parametrize("arguments", [("-o", "max"), ("-o", "prod", "-d", "double"),
                                       ("-o", "min", "-d", "int64")])
def test_bench_compares_like_with_like(arguments):
    status, output = run_bench("-b", "1K", "-e", "1K", "-n", "2", "-w", "0", "--blocks", "1",
                               *arguments)
    assert status == 0 and "Out of bounds values : 0 OK" in output, output


@pytest.mark.parametrize("arguments, message", [
    (("broadcast",), "is for all_reduce alone, not broadcast"),
    (("-o", "avg"), "allowed are -o sum, min, max and prod"),
    (("-d", "half"), "MPI has no type for float16"),
    (("--latency", "5"), "excludes"),
    (("--blocks", "0"), "--blocks"),
    ((), "was not launched by MPI; run mpirun"),
])
def test_bench_says_what_it_cannot_compare(arguments, message):
    status, output = run_bench(*arguments, ranks=0)
    assert status not in (0, None) and message in output, output


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One small run of the tool: its report and what it printed. Horovod's Python cannot work."""
    folder = tmp_path_factory.mktemp("peers")
    broken = folder / "python"
    broken.write_text("#!/bin/sh\necho \"ImportError: nothing is installed here\" >&2\nexit 1\n")
    broken.chmod(0o755)
    mpirun_command(2)  # Skips where there is none.
    result = call_peers("--python", sys.executable, "--python", f"horovod={broken}", "--ranks", 2,
                        "--rounds", 1, "--sizes", "4,8K", "--burst", "4x4K", "--calls", 3,
                        "--json", folder / "report.json", "--csv", folder / "table.csv",
                        timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
    return (json.loads((folder / "report.json").read_text()), result.stdout,
            (folder / "table.csv").read_text())


FIGURES = ["4 B, blocking loop: median", "4 B, blocking loop: p99", "8 KiB",
           "4 x 4 KiB submitted together"]
FUSED = "the same bytes in one all-reduce of 16 KiB"
GROUPED = "4 x 4 KiB in one grouped call"
SUBMITS = [f"{burst}: submitting" for burst in (FIGURES[3], GROUPED)]


@pytest.mark.parametrize("peer", ["scalecom", "gloo", "mpi"])
def test_each_peer_is_measured_on_torch_tensors(run, peer):
    report, printed, table = run
    if peer in report["missing"]:
        assert peer == "mpi" and importlib.util.find_spec("mpi4py") is None, report["missing"]
        pytest.skip(f"mpi4py is not installed: {report['missing']['mpi']}")
    for figure in FIGURES + [FUSED] * (peer == "mpi"):
        got = report["figures"][figure][peer]
        assert got["times_us"]["min"] > 0
        base = report["figures"][GROUPED if figure == FUSED else figure]["scalecom"]
        assert got["ratio"]["median"] == pytest.approx(
            got["times_us"]["median"] / base["times_us"]["median"])
        assert f"| {figure} |" in printed and figure in table
    assert report["versions"][peer] in printed


def test_submitting_is_a_part_of_the_burst(run):
    report, printed, _ = run
    for whole, submits in zip((FIGURES[3], GROUPED), SUBMITS):
        times = [report["figures"][figure]["scalecom"]["times_us"] for figure in (whole, submits)]
        assert 0 < times[1]["median"] < times[0]["median"]
        assert f"| {submits} |" in printed
    assert "gloo" in report["figures"][SUBMITS[0]] and "gloo" not in report["figures"][GROUPED]


def test_submit_prints_a_figure_with_its_spread_for_each_way():
    result = subprocess.run([sys.executable, TOOLS / "submit", "--rounds", "5", "--tensors", "4",
                             "--parameters", "6"], check=False, text=True, capture_output=True,
                            timeout=60, env=rank_environment())
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    for line, start in zip(lines[1:], ("one tensor: submit", "one tensor: synchronize",
                                       "each of 4 tensors: submit", "each of 4 tensors: synch",
                                       "each of 4 tensors in a group: submit",
                                       "each of 4 tensors in a group: synch",
                                       "DistributedOptimizer, 6 parameters: submit",
                                       "DistributedOptimizer, 6 parameters: synch"), strict=True):
        assert line.startswith(start)
        median, least, most = map(float, re.search(r"([\d.]+)  \(([\d.]+) to ([\d.]+)\)$",
                                                   line).groups())
        assert 0 < least <= median <= most


def test_a_missing_peer_is_listed_with_its_reason(run):
    report, printed, _ = run
    for name in ("horovod", "horovod0"):
        assert report["missing"][name] == "ImportError: nothing is installed here"
        assert f"Not measured: {name}: ImportError: nothing is installed here" in printed


@pytest.mark.parametrize("arguments, message", [
    (("--ranks", "0"), "it must be 1 or more"),
    (("--sizes", "4,6"), "'6' is no size of float32 tensors"),
    (("--burst", "160"), "allowed are COUNTxSIZE"),
    (("--peers", "scalecom,nccl"), "--peers names nccl; known are scalecom, mpi"),
    (("--python", "nccl=python3"), "--python is nccl=python3; peers are scalecom, mpi"),
    (("--python", "mpi=/no/such/python"), "/no/such/python is no program"),
    (("--csv", "/no/such/folder/x.csv"), "its folder does not exist"),
])
def test_bad_options_are_refused(arguments, message):
    result = call_peers(*arguments)
    assert result.returncode == 2 and message in result.stderr, result.stderr


@pytest.mark.parametrize("launcher, message", [
    ("false", "scalecom itself cannot be measured: no output"),
    ("env", "the job had 1 ranks, not 2: does the launcher use {ranks}?"),
])
def test_a_launcher_that_does_not_start_the_ranks_is_an_error(launcher, message):
    result = call_peers("--python", sys.executable, "--peers", "scalecom", "--rounds", 1, "--sizes",
                        "4", "--burst", "none", "--calls", 1, "--launcher", launcher)
    assert result.returncode == 1 and message in result.stderr, result.stderr


def test_ratios_are_of_one_round_and_settings_the_best(report_module):
    rounds = {"scalecom": {"only": [{"4": 10.0}, {"4": 20.0}, {"4": 40.0}]},
              "mpi": {"slow": [{"4": 90.0}, {"4": 5.0}, {"4": 90.0}],
                      "fast": [{"4": 20.0}, {"4": 10.0}, {"4": 120.0}]},
              "gloo": {"failed": []}}
    row = report_module.summarise(rounds, ["4"])["4"]
    assert set(row) == {"scalecom", "mpi"}
    assert row["mpi"] == {"setting": "fast",
                          "times_us": {"median": 20.0, "min": 10.0, "max": 120.0},
                          "ratio": {"median": 2.0, "min": 0.5, "max": 3.0}}


def test_one_call_for_all_bytes_is_compared_with_the_group(report_module):
    rounds = {"scalecom": {"only": [{"burst": 10.0, "burst_group": 4.0}]},
              "mpi": {"only": [{"burst": 40.0, "burst_fused": 2.0}]}}
    summary = report_module.summarise(rounds, ["burst", "burst_fused"])
    assert summary["burst"]["mpi"]["ratio"]["median"] == 4.0
    assert summary["burst_fused"]["mpi"]["ratio"]["median"] == 0.5


def test_the_slowest_rank_counts(worker_module):
    torch = pytest.importorskip("torch")

    class OtherRank:
        def all_reduce(self, table, _):
            table += torch.tensor([0.0, 0.0, 5.0, 1.0], dtype=torch.float64)

    bench = worker_module.Bench(OtherRank(), 0, 2, 0)
    bench.figures = {"4": 2.0, "64": 9.0}
    assert bench.slowest(torch, 2) == {"4": 5.0, "64": 9.0}


def test_a_wrong_sum_ends_the_measurement(worker_module):
    torch = pytest.importorskip("torch")

    class Idle:
        def meet(self):
            pass

        def all_reduce(self, *_):
            pass

    for nbytes in (4, 4096):
        with pytest.raises(RuntimeError, match="the sum is wrong on rank 0.*wanted 3"):
            worker_module.Bench(Idle(), 0, 2, 2).measure_size(torch, nbytes)
