"""Jobs that MPICH's mpirun starts, with a library that was built for Open MPI too."""

import pathlib
import shutil
import sys

import pytest
from jobs import HERE, Outcome, rank_environment, run_limited

CHECK = [sys.executable, "-m", "scalecom.check"]


@pytest.fixture
def mpirun():
    """The line that starts ranks; skips where MPICH is not installed."""
    program = shutil.which("mpirun.mpich")
    if program is None:
        pytest.skip("MPICH is not installed (packages mpich, libmpich-dev)")
    return lambda ranks: [program, "-np", str(ranks)]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_of_mpich_are_a_job(mpirun, ranks):
    status, output = run_limited([*mpirun(ranks), *CHECK], 60, env=rank_environment())
    assert status == 0, output
    assert f"works: {ranks} rank{'s' * (ranks > 1)} over" in output
    assert "MPICH" in output and "Open MPI" not in output


@pytest.mark.parametrize("variables", [{}, {"SCALECOM_SHARED_MEMORY": "0"}])
def test_the_collectives_work_over_mpich(mpirun, tmp_path, variables):
    command = [*mpirun(3), sys.executable, str(HERE / "run_program.py"), "programs.claims:check_all",
               str(tmp_path), '{"module": "programs.collectives"}']
    status, output = run_limited(command, 120, env=rank_environment(variables))
    for verdict in Outcome(tmp_path, 3, status, output).check():
        assert [claim for claim, problem in verdict.items() if problem] == [], verdict


@pytest.mark.parametrize("variable, mpi", [("PMI_SIZE", "MPICH"),
                                           ("OMPI_COMM_WORLD_SIZE", "Open MPI")])
def test_an_mpi_that_another_launcher_started_is_refused(mpirun, variable, mpi):
    # As it is for an MPI whose launcher did not start it: alone.
    status, output = run_limited(CHECK, 60, env=rank_environment({variable: "3"}))
    assert status != 0
    assert f"the launcher started 3 processes ({variable}), and {mpi}" in output
    assert "knows of one: start the job with the mpirun of that MPI" in output


def test_an_open_mpi_by_the_name_of_mpichs_relatives_is_not_taken_for_one(mpirun, tmp_path):
    """As release 1.10 has it."""
    libraries = list(pathlib.Path("/usr/lib").glob("*/libmpi.so.40"))
    if not libraries:
        pytest.skip("Open MPI is not installed (package libopenmpi3)")
    (tmp_path / "libmpi.so.12").symlink_to(libraries[0])
    program = 'import ctypes; ctypes.CDLL("libmpi.so.12"); from scalecom.check import main; main()'
    status, output = run_limited([sys.executable, "-c", program], 60, env=rank_environment(
        {"LD_LIBRARY_PATH": str(tmp_path), "PMI_SIZE": "3"}))
    assert "the launcher started 3 processes (PMI_SIZE), and MPICH" in output, output


def test_mpich_by_its_other_name_is_seen(mpirun, tmp_path):
    """As Intel MPI has it, and MPICH where it is not Debian's."""
    program = ("import ctypes, sys\n"
               "ctypes.CDLL(sys.argv[1])\n"
               "from scalecom import check\n"
               "sys.argv[1:] = []\n"
               "status = check.main()\n"
               "print([line.split('/')[-1] for line in open('/proc/self/maps').read().split() if 'libscalecom_mp' in line][0])\n"
               "sys.exit(status)\n")
    library = next(pathlib.Path("/usr/lib").glob("*/libmpich.so.12"))
    (tmp_path / "libmpi.so.12").symlink_to(library)
    for loaded, path, plugin in (("libmpi.so.12", str(tmp_path), "libscalecom_mpi12.so"),
                                 ("libmpich.so.12", "", "libscalecom_mpich.so")):
        status, output = run_limited([*mpirun(2), sys.executable, "-c", program, loaded], 60,
                                     env=rank_environment({"LD_LIBRARY_PATH": path}))
        assert status == 0 and "works: 2 ranks over mpi MPICH" in output, output
        assert output.count(plugin) == 2, output
