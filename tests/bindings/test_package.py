"""The installed package: what it holds, its tools, and what it says without a framework."""

import ctypes
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
import scalecom
from conftest import mpirun_command, rank_environment, run_limited

BIN = pathlib.Path(sys.executable).parent
ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
RECIPES = ROOT / "docs" / "howto" / "deploy"


def run_python(code, variables=()):
    return subprocess.run([sys.executable, "-c", code], check=False, capture_output=True,
                          text=True, timeout=60, env=rank_environment() | dict(variables))


def test_one_build_serves_every_python():
    wheel = importlib.metadata.distribution("scalecom").read_text("WHEEL")
    tags = [line for line in wheel.splitlines() if line.startswith("Tag:")]
    assert tags and all("py3-none-" in tag for tag in tags), tags
    files = [str(path) for path in importlib.metadata.files("scalecom")]
    assert any(path.endswith("lib/libscalecom.so") for path in files)
    assert not any("cpython" in path and path.endswith(".so") for path in files)


def test_the_version_is_the_librarys():
    assert scalecom.__version__ == importlib.metadata.version("scalecom")


def test_the_library_shows_its_c_interface_only():
    library = pathlib.Path(scalecom.__file__).parent / "lib" / "libscalecom.so"
    listed = subprocess.run(["nm", "-D", "--defined-only", str(library)], check=True, text=True,
                            capture_output=True).stdout.split("\n")
    symbols = {line.split()[-1] for line in listed if line}
    assert "scalecom_all_reduce" in symbols
    assert not any("spdlog" in symbol or "nlohmann" in symbol for symbol in symbols)


def test_the_wheel_brings_what_pip_does_not_install():
    library = pathlib.Path(scalecom.__file__).parent / "lib" / "libscalecom.so"
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    listed = subprocess.run(["ldd", str(library)], check=True, text=True, capture_output=True,
                            env=environment).stdout
    paths = dict(re.findall(r"^\s*(\S+) => (/\S+)", listed, re.MULTILINE))
    from_the_system = {name for name, path in paths.items() if not path.startswith(str(library.parent))}
    assert from_the_system <= {"libcrypto.so.3", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6",
                               "libc.so.6"}, listed


def test_the_package_needs_no_framework():
    result = run_python("import sys, scalecom, scalecom.basics; "
                        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules")
    assert result.returncode == 0, result.stderr


def test_the_adapter_says_what_to_install():
    result = run_python("import sys; sys.modules['torch'] = None\nimport scalecom.torch")
    assert result.returncode != 0
    assert "ImportError: scalecom.torch needs PyTorch" in result.stderr
    assert "pip install torch" in result.stderr


def test_one_process_loads_no_mpi():
    result = run_python("import scalecom.basics as hvd; hvd.init(); assert hvd.size() == 1; "
                        "assert 'libmpi' not in open('/proc/self/maps').read()")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("ranks", [0, 2])
def test_the_installation_check_works(ranks):
    command = mpirun_command(ranks) if ranks else []
    status, output = run_limited([*command, sys.executable, "-m", "scalecom.check"], 60,
                                 env=rank_environment())
    assert status == 0 and f"works: {f'{ranks} ranks' if ranks else '1 rank'} over" in output, output


def test_the_installation_check_says_what_is_wrong_in_one_line():
    result = subprocess.run([sys.executable, "-m", "scalecom.check"], capture_output=True, text=True,
                            timeout=60, env=rank_environment({"SCALECOM_MODE": "shraded"}))
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("scalecom.check: SCALECOM_MODE=shraded is not allowed; allowed: cyclic,")


def test_info_is_a_table_for_people():
    status, output = run_limited([BIN / "scalecom-info"], 60, env=rank_environment())
    assert status == 0
    for row in ("SCALECOM_STALL_SHUTDOWN_TIME_SECONDS +0 s +.default.", "SCALECOM_TIMELINE +not set +.default."):
        assert re.search(row, output), output


def test_info_tells_builds_and_settings():
    result = subprocess.run([BIN / "scalecom-info", "--json"], check=True, capture_output=True,
                            text=True, timeout=60, env=rank_environment())
    report = json.loads(result.stdout)
    assert report["build"]["mpi"] == "yes"
    assert {"variable", "value", "source"} <= set(report["settings"][0])
    assert re.match(r"no \(.{20,}\)|.+compute capability", report["loads"]["cuda"])
    assert re.match(r"no \(.{20,}\)|2\.\d+\.\d+$", report["loads"]["nccl"])


def test_an_nccl_that_cannot_be_loaded_fails_init_unless_none_is_wanted():
    environment = {"SCALECOM_NCCL_LIBRARY": "/x.so"}
    info = [BIN / "scalecom-info", "--json"]
    result = subprocess.run(info, capture_output=True, text=True, timeout=60, env=rank_environment(environment))
    assert result.returncode == 1
    assert "SCALECOM_NCCL_LIBRARY is /x.so, which cannot be loaded" in result.stderr
    environment["SCALECOM_CUDA_COLLECTIVES"] = "host"
    result = subprocess.run(info, check=True, capture_output=True, text=True, timeout=60,
                            env=rank_environment(environment))
    assert json.loads(result.stdout)["loads"]["nccl"].startswith("no (SCALECOM_NCCL_LIBRARY is /x.so")


@pytest.mark.parametrize("command", [
    [BIN / "scalecom-info", "--json"],
    [sys.executable, "-c", "import sys, json; from scalecom import basics; print(json.dumps(basics.info())); "
                           "assert 'nvidia' not in sys.modules"]])
def test_pypis_nccl_is_found_where_it_is_installed(command, tmp_path):
    folder = tmp_path / "nvidia" / "nccl" / "lib"
    folder.mkdir(parents=True)
    (folder / "libnccl.so.2").write_text("no library")
    environment = rank_environment({"PYTHONPATH": str(tmp_path)})
    result = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60, env=environment)
    assert json.loads(result.stdout)["loads"]["nccl"].startswith(f"no (NCCL cannot be loaded ({folder}/libnccl.so.2")


@pytest.mark.parametrize("given", [None, "/mine.so"])
def test_nccl_is_told_of_the_tuner_where_an_algorithm_is_named(given):
    variables = {"SCALECOM_ALLREDUCE_ALGORITHM": "ring"}
    if given is not None:
        variables["NCCL_TUNER_PLUGIN"] = given
    result = run_python("import ctypes, scalecom.basics as hvd; hvd.init(); "
                        "getenv = ctypes.CDLL(None).getenv; getenv.restype = ctypes.c_char_p; "
                        "print(getenv(b'NCCL_TUNER_PLUGIN').decode())", variables)
    assert result.returncode == 0, result.stderr
    path = result.stdout.strip()
    if given is not None:
        assert path == given
        return
    name = ctypes.c_char_p.in_dll(ctypes.CDLL(path), "ncclTunerPlugin_v4")
    assert name.value == b"scalecom"


@pytest.mark.parametrize("ranks", [0, 2])
def test_info_explains_what_is_compressed(ranks):
    command = [*(mpirun_command(ranks) if ranks else []), str(BIN / "scalecom-info"), "--plan"]
    # The mode is that of the setting, where there is one.
    status, output = run_limited([*command, "1000,1000000", "--rate", "50"], 60,
                                 env=rank_environment({"SCALECOM_MODE": "cyclic"}))
    assert status == 0, output
    assert f"host's memory, {'2 ranks' if ranks else '1 rank'}; figures" in output, output
    rows = [line.split()[:3] for line in output.splitlines() if "the mode is cyclic" in line]
    assert rows == [["1000", "cyclic", "50"], ["1000000", "cyclic", "50"]], output
    status, output = run_limited([*command, "1000000", "--json"], 60, env=rank_environment())
    plan = json.loads(output[output.index("[\n"):output.rindex("]") + 1])
    assert plan[0]["reason"].startswith("auto: ") and plan[0]["mode"] in ("dense", "sharded")
    assert sum(way["is_chosen"] for way in plan[0]["alternatives"]) == 1


@pytest.mark.parametrize("wrong, part", [("--plan=-5", "-5"), ("--plan=many", "'many' is no number of elements"),
                                         ("--rate=0", "--rate"), ("--mode=sharp", "'sharp' is not allowed; allowed: auto, cyclic"),
                                         ("--mode=auto", "--mode requires --plan"), ("--rate=9", "--rate requires --plan")])
def test_info_names_a_wrong_plan(wrong, part):
    status, output = run_limited([BIN / "scalecom-info", wrong], 60, env=rank_environment())
    assert status != 0 and part in output, output


@pytest.mark.parametrize("wrong, part", [
    ("--minbytes=0", "Value 0 not in range 1 to"), ("--datatype=quad", "'quad' is not allowed; allowed: bfloat16, double"),
    ("--maxbytes=3", "4 is more than --maxbytes, 3"), ("broadcast --root=5", "--root is 5; allowed: 0 to 0"),
    ("--check=2", "Value 2 not in range 0 to 1"), ("--latency=2 --burst=3", "--latency excludes --burst"),
    ("--idle=1 --burst=3", "--burst excludes --idle"), ("--json=/nowhere/j", "--json is /nowhere/j, which cannot be written"),
    ("scalecom --datatype=int32", "scalecom is timed on float"), ("scalecom --op=sum", "timed as an average"),
    ("broadcast --latency=2", "--latency: is for all_reduce alone, not broadcast"),
    ("alltoall --explain", "--explain: is for all_reduce alone, not alltoall"),
    ("--burst=2 --burst-bytes=0", "Value 0 not in range 1 to")])
def test_bench_names_wrong_options(wrong, part):
    status, output = run_limited([BIN / "scalecom-bench", *wrong.split()], 60, env=rank_environment())
    assert status != 0 and part in output and max(map(len, output.splitlines())) < 200, output


def test_bench_runs():
    status, output = run_limited([BIN / "scalecom-bench", "-b", "8", "-e", "1K"], 60,
                                 env=rank_environment())
    assert status == 0, output


@pytest.mark.parametrize("ranks", [0, 2])
def test_the_ten_line_script_runs(ranks, tmp_path):
    command = mpirun_command(ranks) if ranks else []
    status, output = run_limited([*command, sys.executable, str(EXAMPLES / "ten_lines.py")], 60,
                                 env=rank_environment(), cwd=tmp_path)
    assert status == 0, output
    for rank in range(max(ranks, 1)):
        assert f"rank {rank} of {max(ranks, 1)}: loss" in output


@pytest.mark.skipif(not os.environ.get("VIRTUAL_ENV") and sys.prefix == sys.base_prefix,
                    reason="the tests do not run in a virtual environment")
def test_the_package_is_the_installed_one():
    assert pathlib.Path(scalecom.__file__).is_relative_to(sys.prefix)


@pytest.fixture(scope="module")
def debian_packages(tmp_path_factory):
    """The Debian packages by their names, each unpacked in a folder."""
    config = ROOT / "build" / "release" / "CPackConfig.cmake"
    if not config.exists() or shutil.which("dpkg-shlibdeps") is None:
        pytest.skip("needs a release build, and dpkg-shlibdeps (package dpkg-dev)")
    folder = tmp_path_factory.mktemp("debian")
    status, output = run_limited(["cpack", "--config", str(config), "-B", str(folder)], 240)
    assert status == 0, output
    unpacked = {}
    for package in folder.glob("*.deb"):
        name = package.name.partition("_")[0]
        unpacked[name] = folder / name
        subprocess.run(["dpkg-deb", "-R", package, unpacked[name]], check=True, timeout=60)
    return unpacked


def test_each_mpi_has_a_debian_package_of_its_own(debian_packages):
    control = {name: (folder / "DEBIAN" / "control").read_text()
               for name, folder in debian_packages.items()}
    assert set(control) == {"scalecom", "scalecom-mpi", "scalecom-mpich"}
    depends = {name: re.search("Depends: (.*)", text)[1] for name, text in control.items()}
    assert "libssl3" in depends["scalecom"] and "mpi" not in depends["scalecom"]
    assert "libopenmpi3" in depends["scalecom-mpi"] and "scalecom (=" in depends["scalecom-mpi"]
    assert "libmpich12" in depends["scalecom-mpich"]


def test_the_debian_package_works_where_it_is_unpacked(debian_packages):
    info = debian_packages["scalecom"] / "usr" / "bin" / "scalecom-info"
    result = subprocess.run([info, "--json"], capture_output=True, text=True, timeout=60,
                            env=rank_environment())
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["version"] == scalecom.__version__


@pytest.mark.parametrize("linter, recipe", [
    (["shellcheck"], "scalecom.sbatch"), (["yamllint", "-s"], "mpijob.yaml"),
    ([sys.executable, "-W", "error", "-m", "compileall", "-q", "-f"], "spack/package.py")])
def test_the_recipes_are_well_formed(linter, recipe, tmp_path):
    if shutil.which(linter[0]) is None:
        pytest.skip(f"{linter[0]} is not installed")
    copy = shutil.copy(RECIPES / recipe, tmp_path)
    result = subprocess.run([*linter, copy], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_image_has_what_the_library_needs():
    """The packages of the Dockerfile are those that this machine builds with."""
    build, run = (RECIPES / "Dockerfile").read_text().split("FROM debian:12\n")
    listed = (ROOT / "tools" / "packages.txt").read_text().partition("# tests")[0].split()
    needed = set(listed) - {"python3-venv", "openmpi-bin", "dataset-fashion-mnist"}
    assert needed <= set(build.replace("\\", " ").split())
    assert {"openmpi-bin", "libssl3"} <= set(run.split())


def test_the_workers_of_the_mpijob_run_a_server_that_is_configured_for_them():
    """By the file that the image has, at one port; and the launcher brings them its PATH."""
    image = (RECIPES / "mpijob.Dockerfile").read_text()
    job = (RECIPES / "mpijob.yaml").read_text()
    assert f"> {re.search('- -De *- -f *- ([^ ]+)', ' '.join(job.split()))[1]}" in image
    assert {"2222"} == set(re.findall("(?:Port|port:) ([0-9]+)", image + job))
    assert "- -x - PATH" in " ".join(job.split())
    home = re.search("sshAuthMountPath: (.*)", job)[1]
    assert f"HostKey {home}/id_rsa" in image and "--create-home --uid 1000 trainer" in (RECIPES / "Dockerfile").read_text()
