"""scalecomrun: the lines by which it starts other launchers, and the ranks that it starts itself."""

import asyncio
import contextlib
import io
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys
import time

import pytest
from jobs import BIN, HERE, free_port, is_alive, rank_environment, rank_variables, run_limited
from programs import ends

from scalecom.launch import agent, discovery, driver, function, host_links, hosts, lines, processes
from scalecom.run import run

RUN = [sys.executable, "-m", "scalecom.run"]
# Versions as the launchers tell them.
OPEN_MPI = "mpirun (Open MPI) 4.1.4"
INTEL = "Intel(R) MPI Library for Linux* OS, Version 2021.19.0 Build 20260929 (id: 1821d9b)"
MPICH = "HYDRA build details:\n    Version: 4.0.2"
ROOT_VARIABLES = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")


def scalecomrun(*arguments, env=None, timeout=60, without=()):
    environment = {name: value for name, value in rank_environment(env).items()
                   if name not in without}
    return run_limited([*RUN, *arguments], timeout, env=environment)


@pytest.fixture
def fake(tmp_path):
    """fake(program, version) -> a PATH on which that launcher is found first."""

    def make(program, version=""):
        path = tmp_path / program
        path.write_text(f"#!/bin/sh\necho '{version}'\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return f"{tmp_path}:{os.environ['PATH']}"

    return make


def dry_line(*arguments, **named):
    status, output = scalecomrun("--dry-run", *arguments, **named)
    assert status == 0, output
    return output.strip().split(" ")


def values_of(line, option):
    return [value for name, value in zip(line, line[1:]) if name == option]


def test_open_mpi_gets_hosts_variables_and_no_binding(fake):
    line = dry_line("-np", "3", "-H", "one:2,two:1", "-x", "MINE", "-x", "A=b", "python3",
                    "train.py", "--epochs", "3",
                    env={"PATH": fake("mpirun", OPEN_MPI), "SCALECOM_LOG_LEVEL": "info",
                         "HOROVOD_CYCLE_TIME": "2", "HOROVOD_RANK": "1", "UNRELATED": "1"})
    assert line[0] == "mpirun" and line[-4:] == ["python3", "train.py", "--epochs", "3"]
    assert values_of(line, "-np") == ["3"] and values_of(line, "-H") == ["one:2,two:1"]
    assert values_of(line, "--bind-to") == ["none"]
    exported = values_of(line, "-x")
    assert {"MINE", "A=b", "SCALECOM_LOG_LEVEL", "HOROVOD_CYCLE_TIME", "PATH"} <= set(exported)
    assert not {"UNRELATED", "HOROVOD_RANK"} & set(exported) and len(set(exported)) == len(exported)
    assert "--allow-run-as-root" not in line and "--tag-output" not in line


@pytest.mark.parametrize("source, given, agent", [
    ("default", {}, "ssh -o ConnectTimeout=10 -o ServerAliveInterval=30"), ("environment", {"OMPI_MCA_plm_rsh_agent": "mine"}, "mine"),
    ("file (/etc/params.conf)", {}, ""), ("default", {"SGE_ROOT": "/opt/sge"}, ""),
    ("default", {"LOADL_STEP_ID": "7"}, "")])
def test_open_mpi_s_remote_shell_has_a_deadline_unless_one_was_chosen(tmp_path, source, given, agent):
    for name, text in (("mpirun", 'case "$1" in --version) echo Open MPI;; *) echo "by $OMPI_MCA_plm_rsh_agent.";; esac'),
                       ("ompi_info", f"echo 'mca:plm:rsh:param:plm_rsh_agent:source:{source}'"), ("ssh", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    status, output = scalecomrun("-np", "2", "-H", "one:1,two:1", "python3",
                                 env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **given})
    assert status == 0 and f"by {agent}.\n" in output, output


def test_root_has_to_ask_for_open_mpi(fake):
    path = fake("mpirun", OPEN_MPI)
    arguments = ("-np", "2", "--launcher", "mpirun", "python3", "train.py")
    if os.geteuid() == 0:
        status, output = scalecomrun("--dry-run", *arguments, env={"PATH": path},
                                     without=ROOT_VARIABLES)
        assert status == 2 and "--allow-run-as-root" in output, output
    line = dry_line("--allow-run-as-root", *arguments, env={"PATH": path}, without=ROOT_VARIABLES)
    assert "--allow-run-as-root" in line and values_of(line, "-H") == ["localhost:2"]


def test_mpich_gets_its_own_options(fake):
    line = dry_line("-np", "3", "-H", "one:2,two:1", "-x", "MINE", "-x", "A=b", "--prefix-output",
                    "python3", "train.py", env={"PATH": fake("mpirun", MPICH),
                                                "SCALECOM_LOG_LEVEL": "info"})
    assert values_of(line, "-n") == ["3"] and values_of(line, "-hosts") == ["one:2,two:1"]
    assert {"MINE", "SCALECOM_LOG_LEVEL"} <= set(values_of(line, "-genvlist")[0].split(","))
    place = line.index("-genv")
    assert line[place + 1:place + 3] == ["A", "b"] and "-prepend-rank" in line and "-x" not in line


def test_a_slurm_allocation_is_srun_s(fake):
    line = dry_line("-np", "4", "-H", "one:2,two:2", "-x", "A=b", "--launcher-args=--mem=0",
                    "python3", "train.py", env={"PATH": fake("srun", "none\n\tpmix\n\tpmi2"), "SLURM_JOB_ID": "7"})
    assert line[0] == "srun" and line[-2:] == ["python3", "train.py"]
    assert {"--ntasks=4", "--mpi=pmix", "--nodelist=one,two", "--ntasks-per-node=2",
            "--export=ALL,A=b", "--mem=0", "--cpu-bind=none"} <= set(line)
    status, output = scalecomrun("--dry-run", "-np", "3", "-H", "one:2,two:1", "python3", "x.py",
                                 env={"PATH": fake("srun"), "SLURM_JOB_ID": "7"})
    assert status == 2 and "[1, 2] slots" in output, output


def test_intel_mpi_gets_hosts_without_slots_and_how_many_ranks_each_has(fake):
    environment = {"PATH": fake("mpirun", INTEL)}
    line = dry_line("-np", "3", "-H", "one:2,two:2", "python3", "train.py", env=environment)
    assert values_of(line, "-hosts") == ["one,two"] and values_of(line, "-ppn") == ["2"]
    line = dry_line("-np", "2", "--launcher", "mpirun", "python3", "train.py", env=environment)
    assert values_of(line, "-hosts") == ["localhost"] and values_of(line, "-ppn") == ["2"]
    status, output = scalecomrun("--dry-run", "-np", "3", "-H", "one:2,two:1", "python3", "x.py", env=environment)
    assert status == 2 and "[1, 2] slots; Intel MPI's mpirun" in output, output


@pytest.mark.parametrize("chosen, option", [({}, ["--mpi=none"]), ({"SLURM_MPI_TYPE": "pmi2"}, [])])
def test_a_slurm_without_pmix_starts_ranks_that_need_no_mpi(fake, chosen, option):
    line = dry_line("-np", "4", "python3", "train.py",
                    env={"PATH": fake("srun", "none\n\tcray_shasta\n\tpmi2"), "SLURM_JOB_ID": "7", **chosen})
    assert [word for word in line if word.startswith("--mpi")] == option


def test_ranks_that_srun_starts_share_a_secret(fake):
    path = fake("srun", "$SCALECOM_RENDEZVOUS_KEY")
    program = pathlib.Path(path.partition(":")[0], "srun")
    program.write_text(program.read_text().replace("'", ""))
    arguments = ("-np", "2", "--launcher", "srun", "python3", "train.py")
    keys = [scalecomrun(*arguments, env={"PATH": path})[1].strip() for _ in range(2)]
    assert all(re.fullmatch(r"[0-9a-f]{32}", key) for key in keys) and keys[0] != keys[1]
    assert scalecomrun(*arguments, env={"PATH": path, "SCALECOM_RENDEZVOUS_KEY": "mine"})[1].strip() == "mine"


def test_this_host_alone_needs_no_mpi():
    line = " ".join(dry_line("-np", "2", "-H", "localhost:4", "python3", "train.py", "a b"))
    assert "RANK=R WORLD_SIZE=2" in line and line.endswith("python3 train.py 'a b'")


def test_a_hostfile_is_read_in_both_forms(fake, tmp_path):
    path = tmp_path / "hosts"
    path.write_text("# ours\none slots=2 max_slots=4\ntwo:3  # fast\n\nthree\n")
    line = dry_line("-np", "6", "--hostfile", str(path), "python3", "train.py",
                    env={"PATH": fake("mpirun", OPEN_MPI)})
    assert values_of(line, "-H") == ["one:2,two:3,three:1"]
    assert hosts.parse_lines("one:2\ntwo:0\n", "it") == [hosts.Host("one", 2)]


@pytest.mark.parametrize("arguments, message", [
    (("-np", "2"), "there is no command"),
    (("python3", "x.py"), "-np is missing"),
    (("-np", "0", "python3"), "0 is not allowed; allowed: 1 to 9999999"),
    (("-np", "2", "no-such-program"), "no-such-program cannot be run"),
    (("-np", "2", "--frobnicate", "python3"), "unrecognized arguments: --frobnicate"),
    (("-np", "3", "-H", "one:1,two:1", "python3"), "-np is 3, and the hosts have 2 slots"),
    (("-np", "2", "-H", "one:none", "python3"), "-H has 'one:none'; allowed are"),
    (("-np", "2", "-H", "one:0", "python3"), "-H has one:0"),
    (("-np", "2", "-H", "one:1,one:1", "python3"), "-H has one more than once"),
    (("-np", "2", "-H", "-oops:2", "python3"), "-H"),
    (("-np", "2", "-H", "", "python3"), "-H has ''; allowed are"),
    (("-np", "2", "--hostfile", "", "python3"), "the hostfile '' cannot be read"),
    (("-np", "2", "/dev/../etc/passwd"), "it may not be executed; chmod +x lets it"),
    (("-np", "2", "--hostfile", "/absent", "python3"), "/absent cannot be read"),
    (("-np", "2", "--hostfile", "/dev/null", "python3"), "/dev/null has no host"),
    (("-np", "2", "-x", "7=8", "python3"), "'7=8' is not allowed"),
    (("-np", "2", "--launcher", "local", "-H", "one:2", "python3"), "the hosts have one;"),
    (("-np", "2", "--launcher-args=-v", "python3"), "--launcher-args are for mpirun or srun"),
    (("-np", "2", "--launcher", "pigeon", "python3"), "'pigeon'"),
    (("-np", "2", "-p", "2222", "python3"), "-p is of horovodrun and not of scalecomrun; give the host its Port"),
    (("-np", "2", "--fusion-threshold-mb", "32", "python3"), "set the variable"),
    (("-np", "2", "train.py"), "; take python train.py"),
    (("-np", "2", "--min-np", "3", "python3"), "--min-np is 3, -np 2 and --max-np 2; each must be at least"),
    (("-np", "2", "--host-timeout", "5", "python3"), "--host-timeout is for elastic jobs; give"),
])
def test_wrong_arguments_are_named_with_the_remedy(arguments, message):
    status, output = scalecomrun(*arguments)
    assert status == 2 and message in output, output


def test_a_missing_or_strange_launcher_is_named(fake):
    arguments = ("-np", "2", "-H", "one:2", sys.executable, "x.py")
    status, output = scalecomrun(*arguments, env={"PATH": "/nowhere"})
    assert status == 2 and "mpirun is not on the PATH; install" in output, output
    status, output = scalecomrun(*arguments, env={"PATH": fake("mpirun", "abacus 1.0")})
    assert status == 2 and "abacus 1.0" in output, output


def test_version_and_build_are_told():
    status, output = scalecomrun("--version")
    assert status == 0 and re.fullmatch(r"scalecom \d+\.\d+\.\d+\s*", output)
    status, output = scalecomrun("--check-build")
    assert status == 0 and "SCALECOM_" in output, output


def test_the_command_is_installed():
    status, output = run_limited([BIN / "scalecomrun", "--version"], 60, env=rank_environment())
    assert status == 0 and output.startswith("scalecom "), output


@pytest.mark.parametrize("launcher", ["local", "mpirun"])
def test_ranks_are_started_and_make_a_job(launcher):
    if launcher == "mpirun" and subprocess.run(["which", "mpirun"], capture_output=True).returncode:
        pytest.skip("mpirun is not installed")
    status, output = scalecomrun("-np", "2", "--launcher", launcher, "--verbose", sys.executable,
                                 "-m", "scalecom.check")
    assert status == 0, output
    assert "works: 2 ranks over " + ("sockets" if launcher == "local" else "mpi") in output
    assert "scalecom.check" in output.splitlines()[0]


@pytest.mark.parametrize("launcher", ["local", "mpirun"])
def test_ranks_that_a_rank_starts_have_places_of_their_own(launcher):
    if launcher == "mpirun" and subprocess.run(["which", "mpirun"], capture_output=True).returncode:
        pytest.skip("mpirun is not installed")
    status, output = scalecomrun("-np", "2", "--launcher", launcher, sys.executable, "-c",
                                 "import os; print(f'place {os.environ.get(\"HOROVOD_RANK\")}')",
                                 env={"HOROVOD_RANK": "7"})
    assert status == 0 and output.count("place None") == 2, output


@pytest.mark.parametrize("outer", [{"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "1"},
                                   {"SCALECOM_RENDEZVOUS": "another"}, {"HOROVOD_RENDEZVOUS": "another"}])
def test_local_ranks_inside_another_job_are_their_own(outer):
    status, output = scalecomrun("-np", "2", sys.executable, "-m", "scalecom.check", env=outer)
    assert status == 0 and "works: 2 ranks over sockets" in output, output


def test_output_is_prefixed_by_whole_lines():
    code = ("import os, sys; rank = os.environ['RANK']; sys.stdout.write(rank * 100000 + '\\n');"
            "sys.stdout.write('end'); sys.stderr.write('bad\\n')")
    status, output = scalecomrun("-np", "3", "--prefix-output", sys.executable, "-c", code)
    assert status == 0
    expected = [line for rank in range(3)
                for line in (f"[{rank}] {str(rank) * 100000}", f"[{rank}] end", f"[{rank}] bad")]
    assert sorted(output.splitlines()) == sorted(expected)


def copied(*blocks):
    """What copy_lines() makes of them, each read by itself."""
    async def copy():
        source = asyncio.StreamReader()
        copying = asyncio.ensure_future(processes.copy_lines(source, target, "[0] "))
        for block in blocks:
            source.feed_data(block)
            await asyncio.sleep(0)  # The copy takes it.
            await asyncio.sleep(0)
            seen.append(target.buffer.getvalue())
        source.feed_eof()
        await copying

    seen, target = [], io.TextIOWrapper(io.BytesIO())
    asyncio.run(copy())
    return [*seen, target.buffer.getvalue()]


def test_progress_bars_and_endless_lines_are_shown(monkeypatch):
    assert copied(b"10%\r20%\r", b"30", b"%\r\nend") == [
        b"[0] 10%\n[0] 20%\n", b"[0] 10%\n[0] 20%\n", b"[0] 10%\n[0] 20%\n[0] 30%\n",
        b"[0] 10%\n[0] 20%\n[0] 30%\n[0] end\n"]
    monkeypatch.setattr(processes, "_LINE_BYTES_MAX", 70_000)
    half = b"x" * 40_000
    assert copied(half, half)[1] == b"[0] " + 2 * half + b"\n"


def test_ranks_go_on_when_the_reader_of_their_output_has_gone(tmp_path):
    """They write more than pipes hold."""
    code = (f"import pathlib\nfor _ in range(100_000): print('a line of output')\n"
            f"pathlib.Path({str(tmp_path)!r}, 'done').touch()")
    process = subprocess.Popen([*RUN, "-np", "1", "--prefix-output", sys.executable, "-c", code],
                               env=rank_environment(), stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"[0] a line of output\n"
        process.stdout.close()
        assert process.wait(30) == 0 and (tmp_path / "done").exists()
    finally:
        process.kill()
        process.wait()


def test_an_output_that_cannot_be_written_is_told_once():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*RUN, "-np", "1", "--prefix-output", sys.executable, "-c", "print('x\\n' * 100_000)"],
            env=rank_environment(), stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr.count("the output cannot be written") == 1
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("already", [False, True])
def test_what_an_agent_starts_while_it_ends_is_ended_with_it(monkeypatch, already):
    async def end():
        one = agent.Agent({"secret": "", "variables": {}, "command": ["sleep", "60"]}, said.append)
        if already:
            await one.end()
        starting = asyncio.ensure_future(one.hear({"start": 1, "label": "one", "prefix": None}))
        await asyncio.sleep(0)  # It has begun.
        await asyncio.wait_for(one.end(), 20)
        await starting

    async def start(*arguments):
        started.append(await begin(*arguments))
        return started[-1]

    said, started, begin = [], [], processes.RankProcess.start
    monkeypatch.setattr(processes.RankProcess, "start", start)
    asyncio.run(end())
    assert said == [] and len(started) == (0 if already else 1)
    assert not any(is_alive(one.pid) for one in started)


@pytest.mark.parametrize("prefix", [None, "[0] "])
def test_what_a_rank_had_started_ends_with_it(tmp_path, monkeypatch, prefix):
    """Though it ignores SIGTERM, and though the rank itself has ended."""
    monkeypatch.setattr(processes, "GRACE_S", 0.3)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO()))
    script = f"trap '' TERM; sleep 1000 & echo $! > {tmp_path / 'child'}; exit 3"

    async def run():
        process = await processes.RankProcess.start(["sh", "-c", script], os.environ, "rank 0",
                                                    prefix)
        status = await asyncio.wait_for(process.wait(), 20)
        alive = is_alive(child())
        await processes.end_all([process])
        return status, alive

    def child():
        return int((tmp_path / "child").read_text())

    try:
        assert asyncio.run(run()) == (3, True)
        assert not is_alive(child(), within_s=5.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child(), signal.SIGKILL)


def test_a_discovery_script_that_hangs_leaves_nothing(tmp_path, monkeypatch):
    async def start(*arguments, **options):
        """The time is up only when the script has told of what it started."""
        process = await begin(*arguments, **options)
        deadline = time.monotonic() + 20
        while not (tmp_path / "child").exists():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)  # A file tells nobody that it is there.
        return process

    begin = asyncio.create_subprocess_exec
    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    monkeypatch.setattr(discovery, "TIMEOUT_S", 0.5)
    script = tmp_path / "discover"
    script.write_text(f"#!/bin/sh\nsleep 1000 &\ncd {tmp_path}\necho $! > part\nmv part child\nsleep 1000\n")
    script.chmod(0o755)
    with pytest.raises(ValueError, match="gave no hosts within 0.5 s"):
        asyncio.run(discovery.Discovery([], str(script)).look())
    child = int((tmp_path / "child").read_text())
    try:
        assert not is_alive(child, within_s=5.0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_what_is_wrong_with_the_hosts_is_told_once(monkeypatch):
    monkeypatch.setattr(driver, "DISCOVERY_PERIOD_S", 0.0)

    class Failing:
        script = "discover"
        hosts = []
        _problems = ["one", "one", "two", "two", None, "two"]

        async def look(self):
            if not self._problems:
                raise asyncio.CancelledError
            problem = self._problems.pop(0)
            if problem is not None:
                raise ValueError(problem)

    async def look_out():
        job = driver.Driver(lines.Plan(1, [], [], ["true"]), driver.Limits(1, 1), Failing(),
                            host_links.Reach([]), {}, told.append)
        with pytest.raises(asyncio.CancelledError):
            await job._look_out()

    told = []
    asyncio.run(look_out())
    assert told == [f"the hosts stay as they are: {one}" for one in ("one", "two", "two")]


def test_a_function_is_not_left_to_srun():
    with pytest.raises(ValueError, match="launcher is 'srun'; allowed: 'auto', 'local' and 'mpirun'"):
        run(print, launcher="srun")


def test_the_rank_that_fails_by_itself_is_told_whatever_the_files_times(tmp_path):
    """And of those that fail by another, which left nothing, the first."""
    (tmp_path / "call").write_bytes(function._preparation() + function._dump_call(ends.fail_alone, (2,), {}))
    port = free_port()
    ranks = [subprocess.Popen([sys.executable, "-m", "scalecom.launch.function", tmp_path],
                              env={**rank_environment(), **rank_variables(rank, 3, port)}) for rank in range(3)]
    try:
        assert [process.wait(60) for process in ranks] == [1, 1, 1]
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    for rank, time_ns in enumerate((2, 1, 2)):
        os.utime(tmp_path / f"rank{rank}", ns=(time_ns, time_ns))
    with pytest.raises(RuntimeError, match="(?s)rank 2 of 3 failed:.*KeyError: 'no such column'"):
        function._results(tmp_path, 3, 1)
    with pytest.raises(RuntimeError, match="(?s)rank 1 of 2 failed:.*rank 2 called shutdown.*OSError"):
        function._results(tmp_path, 2, 1)


def test_the_first_rank_that_fails_ends_the_others_and_gives_the_code():
    code = ("import os, sys, time\n"
            "if os.environ['RANK'] == '1': sys.exit(7)\ntime.sleep(60)")
    began = time.monotonic()
    status, output = scalecomrun("-np", "3", sys.executable, "-c", code)
    assert status == 7 and "rank 1 ended with exit code 7; the others are ended" in output, output
    assert time.monotonic() - began < 15.0


def test_a_rank_that_is_killed_is_named_with_its_signal():
    code = "import os, time\nif os.environ['RANK'] == '0': os.kill(os.getpid(), 9)\ntime.sleep(60)"
    status, output = scalecomrun("-np", "2", sys.executable, "-c", code)
    assert status == 128 + 9 and "rank 0 was ended by SIGKILL" in output, output


def test_a_hang_up_that_is_ignored_ends_nothing(tmp_path):
    """As nohup has it."""
    code = (f"import pathlib, time\nprint('ready', flush=True)\n"
            f"while not pathlib.Path({str(tmp_path)!r}, 'go').exists(): time.sleep(0.02)")
    process = subprocess.Popen([*RUN, "-np", "1", sys.executable, "-c", code],
                               env=rank_environment(), stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        (tmp_path / "go").touch()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_ranks_and_what_they_started(tmp_path, number):
    """Each rank is a shell that waits for a Python, which tells of the signal."""
    program = tmp_path / "rank.py"
    program.write_text(
        "import os, pathlib, signal, sys, time\n"
        "def told(number, frame):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'got' + os.environ['RANK']).write_text(str(number))\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGINT, told)\nsignal.signal(signal.SIGTERM, told)\n"
        "os.write(1, b'ready\\n')  # In one piece, beside the other rank's.\ntime.sleep(60)\n")
    process = subprocess.Popen([*RUN, "-np", "2", "sh", "-c", f"{sys.executable} {program}; true"],
                               env=rank_environment(), stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
    try:
        for _ in range(2):
            assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    finally:
        process.kill()
    assert [(tmp_path / f"got{rank}").read_text() for rank in range(2)] == [str(int(number))] * 2


def test_a_signal_ends_a_job_whose_ranks_are_being_started():
    process = subprocess.Popen([*RUN, "-np", "100000", "echo", "ready"], env=rank_environment(),
                               stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    finally:
        process.kill()
        process.wait()


def test_an_example_trains():
    example = HERE.parent.parent / "docs" / "examples" / "ten_lines.py"
    status, output = scalecomrun("-np", "2", sys.executable, str(example), timeout=120)
    assert status == 0, output
    assert set(re.findall(r"rank (\d) of 2: loss", output)) == {"0", "1"}
