"""Scripts that import horovod, run by python -m scalecom.horovod."""

import importlib.util
import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest
from conftest import mpirun_command, run_limited
from jobs import HERE, free_port, rank_environment, rank_variables
from programs.claims import names

ALIAS = [sys.executable, "-m", "scalecom.horovod"]
PROBE = """\
import json, sys
main = sys.modules["__main__"]
print(json.dumps([sys.argv, sys.path[0], __name__, __file__, __package__,
                  getattr(__spec__, "name", None), vars(main) is globals()]))
"""


@pytest.mark.parametrize("ranks", [0, 1, 2, 3])
@pytest.mark.parametrize("claim", names("programs.horovod_names"))
def test_horovod_names(claims, ranks, claim):
    claims.check(ranks, "programs.horovod_names", claim)


def run_script(ranks, name, *arguments, folder):
    command = [*mpirun_command(ranks), *ALIAS, HERE / "scripts" / name, *arguments]
    status, output = run_limited(command, 90, env=rank_environment(), cwd=folder)
    return status, output


@pytest.mark.parametrize("arguments", [(), ("--fp16-allreduce", "--workers", "1"),
                                       ("--gradient-predivide-factor", "2.0"), ("--use-adasum",)])
def test_a_training_of_horovod_runs_as_it_is(arguments, tmp_path):
    status, output = run_script(2, "horovod_digits.py", *arguments, folder=tmp_path)
    assert status == 0, output
    accuracies = [float(value) for value in re.findall(r"test accuracy ([\d.]+)", output)]
    assert len(accuracies) == 2 and accuracies[-1] > 0.8, output
    assert sorted(re.findall(r"rank (\d): equal True", output)) == ["0", "1"], output


def test_a_benchmark_of_horovod_runs_as_it_is(tmp_path):
    status, output = run_script(2, "horovod_benchmark.py", "--fp16-allreduce", folder=tmp_path)
    assert status == 0, output
    assert "Number of CPUs: 2" in output and len(re.findall("samples/sec", output)) == 2, output


def test_a_script_runs_without_mpi(tmp_path):
    port = free_port()
    processes = [subprocess.Popen([*ALIAS, HERE / "scripts" / "horovod_benchmark.py"], text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
                                  env=rank_environment(rank_variables(rank, 2, port)))
                 for rank in range(2)]
    try:
        outputs = [process.communicate(timeout=90)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert "Total on 2 CPU(s): done" in outputs[0] and "Total" not in outputs[1], outputs


@pytest.mark.parametrize("arguments", [(), ("--use-mpi",)])
def test_a_script_runs_its_function_on_ranks(arguments, tmp_path):
    if arguments:
        mpirun_command(1)  # Skips where there is none.
    status, output = run_limited([*ALIAS, HERE / "scripts" / "horovod_run.py", *arguments], 90,
                                 env=rank_environment(), cwd=tmp_path)
    assert status == 0 and output.endswith("all as expected\n"), output


def test_what_a_function_on_ranks_cannot_have_is_refused():
    code = """if True:
        import pytest, scalecom.horovod
        scalecom.horovod.install()
        from horovod import run
        for error, message, given in (
                (NotImplementedError, "min_np.*scalecomrun --elastic", {"min_np": 1}),
                (NotImplementedError, "host_discovery_script", {"host_discovery_script": "x"}),
                (NotImplementedError, "ssh_port.*ssh/config", {"ssh_port": 22}),
                (NotImplementedError, "output_filename", {"output_filename": "x"}),
                (ValueError, "use_gloo and use_mpi", {"use_gloo": True, "use_mpi": True}),
                (ValueError, "hosts and hostfile", {"hosts": "localhost:1", "hostfile": "x"}),
                (ValueError, "hostfile /absent cannot be read", {"hostfile": "/absent"}),
                (ValueError, "hostfile /dev/null has no host", {"hostfile": "/dev/null"}),
                (ValueError, "mpi_args.*use_mpi", {"mpi_args": "-v"}),
                (ValueError, "num_proc is 3, and the hosts have 2",
                 {"hosts": "faraway:2", "num_proc": 3}),
                (ValueError, "num_proc is 2, and the hosts have 1",
                 {"hosts": "localhost:1", "num_proc": 2}),
                (ValueError, "num_proc is 0", {"num_proc": 0})):
            with pytest.raises(error, match=message):
                run(print, **given)
        import scalecom.pickling
        if not scalecom.pickling.TAKES_FUNCTIONS:
            with pytest.raises(ValueError, match="lambda.*cannot be pickled.*cloudpickle"):
                run(lambda: 1)
        import math, scalecom.run
        for given, message in (((3,), "func is 3"), ((math.sqrt, 9.0), r"args is 9.0; .* such as \\(9.0,\\)")):
            with pytest.raises(ValueError, match=message):
                scalecom.run.run(*given)
        assert scalecom.run.run(math.sqrt, (9.0,), num_proc=2) == [3.0, 3.0]
        """
    status, output = run_python(["-c", code], HERE)
    assert status == 0, output


def test_a_script_without_a_guard_does_not_start_itself_again(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text("import horovod\ndef seven(): return 7\nprint(horovod.run(seven, num_proc=1))\n")
    status, output = run_python(["-m", "scalecom.horovod", str(script)], tmp_path)
    has_cloudpickle = importlib.util.find_spec("cloudpickle") is not None
    if has_cloudpickle:
        assert status == 0 and output.strip().endswith("[7]"), output
    else:
        assert status == 1 and 'under if __name__ == "__main__":' in output, output


def test_objects_go_by_cloudpickle_where_it_is(tmp_path):
    (tmp_path / "cloudpickle.py").write_text("def dumps(value): return b'one of its own'\n")
    status, output = run_python(["-c", "from scalecom import pickling; print(pickling.dumps(3), "
                                 "pickling.TAKES_FUNCTIONS)"], tmp_path, PYTHONPATH=str(tmp_path))
    assert status == 0 and "one of its own' True" in output, output


def run_python(arguments, folder, **variables):
    return run_limited([sys.executable, *arguments], 60, env=rank_environment(variables),
                       cwd=folder)


@pytest.mark.parametrize("target", [["probe.py"], ["sub/probe.py"], ["link.py"], ["-m", "probe"],
                                    ["-m", "package"]])
@pytest.mark.parametrize("safe", ["", "1"])
def test_a_script_finds_itself_as_python_has_it(target, safe, tmp_path):
    for path in ("probe.py", "sub/probe.py", "package/__main__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(PROBE)
    (tmp_path / "link.py").symlink_to("sub/probe.py")
    if safe and (sys.version_info < (3, 11) or target[0] == "-m"):
        pytest.skip("Python does not look for modules in the working folder then")
    command = [*target, "one", "-m", "--help", "--", "two"]
    variables = {"PYTHONSAFEPATH": safe}
    expected = run_python(command, tmp_path, **variables)
    got = run_python(["-m", "scalecom.horovod", *command], tmp_path, **variables)
    assert expected[0] == 0 and json.loads(got[1]) == json.loads(expected[1]), (expected, got)


def test_a_script_that_is_not_there_is_named(tmp_path):
    status, output = run_python(["-m", "scalecom.horovod", "absent.py"], tmp_path)
    assert status == 2 and "absent.py" in output, output
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "__init__.py").write_text("import absent_one")
    for module in ("absent", "absent.part"):
        status, output = run_python(["-m", "scalecom.horovod", "-m", module], tmp_path)
        assert status == 1 and output.strip().endswith(f"there is no module {module} on Python's path"), output
    status, output = run_python(["-m", "scalecom.horovod", "-m", "broken.part"], tmp_path)
    assert status == 1 and "No module named 'absent_one'" in output, output


def test_nothing_is_imported_before_its_name(tmp_path):
    status, output = run_python(
        ["-c", "import sys, scalecom.horovod; scalecom.horovod.install(); import horovod\n"
         "import horovod.common.util, horovod.runner; assert 'torch' not in sys.modules"], tmp_path)
    assert status == 0, output


def other_horovod(folder):
    package = pathlib.Path(folder, "horovod")
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = 'another'\n")
    return {"PYTHONPATH": str(folder)}


@pytest.mark.parametrize("place", ["installed", ""])
def test_another_horovod_is_passed_over_and_said_so_once(place, tmp_path):
    other = tmp_path / place  # An empty place is the working folder, which Python looks into first.
    status, output = run_python(
        ["-c", "import logging; logging.basicConfig(level=logging.INFO)\n"
         "import scalecom.horovod\nfor _ in range(2): scalecom.horovod.install()\n"
         "import horovod; assert horovod.__version__ != 'another'"],
        tmp_path, **other_horovod(other))
    assert status == 0 and output.count("is passed over") == 1, output
    assert f"INFO:scalecom:horovod in {other}" in output


def test_an_imported_horovod_is_an_error(tmp_path):
    status, output = run_python(["-c", "import horovod, scalecom.horovod as alias; alias.install()"],
                                tmp_path, **other_horovod(tmp_path))
    assert status != 0 and "ImportError: horovod is imported already" in output, output


@pytest.mark.parametrize("launcher, is_told", [
    ({}, True), ({"OMPI_COMM_WORLD_SIZE": "3"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "3", "SCALECOM_ELASTIC_WORKER": "of one that started mpirun"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "3", "TORCHELASTIC_RUN_ID": "torchrun's, which mpirun started"}, True)])
def test_libraries_find_the_rank_where_horovodrun_tells_it(launcher, is_told, tmp_path):
    code = ("import json, os, scalecom.horovod\nscalecom.horovod.install()\n"
            "print(json.dumps({name: value for name, value in os.environ.items() if 'HOROVOD_' in name}))")
    status, output = run_python(["-c", code], tmp_path, LOCAL_WORLD_SIZE="3", HOROVOD_RANK="7",
                                **rank_variables(2, 3, free_port()), **launcher)
    assert status == 0, output
    told = json.loads(output)
    assert told == ({"HOROVOD_RANK": "2", "HOROVOD_SIZE": "3", "HOROVOD_LOCAL_RANK": "2", "HOROVOD_LOCAL_SIZE": "3",
                     "HOROVOD_HOSTNAME": socket.gethostname()} if is_told else {})


def test_libraries_find_the_rank_of_an_elastic_job_once_it_is_known(tmp_path):
    script = tmp_path / "train.py"
    script.write_text("import os\nimport horovod.torch as hvd\n"
                      "names = [name for name in sorted(os.environ) if name.startswith('HOROVOD_')]\nhvd.init()\n"
                      "told = [os.environ['HOROVOD_' + name] for name in ('RANK', 'SIZE', 'LOCAL_RANK', 'LOCAL_SIZE')]\n"
                      "os.write(1, f'{hvd.rank()} {names} {told}\\n'.encode())\nhvd.shutdown()\n")
    status, output = run_limited(
        [sys.executable, "-m", "scalecom.run", "--elastic", "-np", "2", "--min-np", "2", sys.executable, "-m",
         "scalecom.horovod", str(script)], 60, env=rank_environment({"HOROVOD_RANK": "7"}))
    assert status == 0, output
    for rank in "01":
        assert f"{rank} ['HOROVOD_HOSTNAME'] ['{rank}', '2', '{rank}', '2']\n" in output, output


def test_processes_that_are_started_have_the_names_too(tmp_path):
    status, output = run_python(
        ["-c", "import scalecom.horovod, subprocess, sys; scalecom.horovod.install()\n"
         "subprocess.run([sys.executable, '-c', 'import horovod.common.basics as b;'\n"
         "'import scalecom.horovod; scalecom.horovod.install(); print(b.__file__)'], check=True)"],
        tmp_path)
    assert status == 0 and "served" in output, output


def migration_states():
    """(name, state) of every name and variable in the tables of the page."""
    page = HERE.parents[1] / "docs" / "howto" / "migrate-from-horovod.md"
    rows = re.findall(r"^\| (`[^|]+`) \| ([a-z ]+) \|.*\|$", page.read_text(), re.MULTILINE)
    return [(name, state) for cell, state in rows for name in re.findall(r"`(\w+)`", cell)]


def test_the_migration_page_tells_the_state_of_each_name(tmp_path):
    status, output = run_python(["-c", "import json, scalecom.torch; "
                                 "print(json.dumps(dir(scalecom.torch)))"], tmp_path)
    assert status == 0, output
    present = set(json.loads(output))
    states = [(name, state) for name, state in migration_states() if "HOROVOD_" not in name]
    assert len(states) > 60
    for name, state in states:
        assert state in ("works", "differs", "not yet"), (name, state)
        assert (name in present) == (state != "not yet"), (name, state)


def test_the_migration_page_tells_the_state_of_each_variable():
    text = (HERE.parents[1] / "docs" / "configuration.md").read_text()
    settings, idle = (set(re.findall(r"^\| `SCALECOM_(\w+)`", part, re.MULTILINE))
                      for part in text.split("## Known from Horovod"))
    for name, state in migration_states():
        place, _, short = name.partition("HOROVOD_")
        if short:
            assert (short in settings) == (state in ("works", "differs")), (name, state)
            assert (short in idle) == (state == "no effect"), (name, state)
    assert idle <= {name.partition("HOROVOD_")[2] for name, _ in migration_states()}
