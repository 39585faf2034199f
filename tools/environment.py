"""What tools/quickstart and tools/test need on a machine: system packages, .venv, scalecom in it."""

import argparse
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "scalecom-installed"
TORCH = "torch==2.13.0"
# Of the other adapters, which the tests need: by module.
FRAMEWORKS = {"jax": "jax==0.10.2", "jaxlib": "jaxlib==0.10.2", "optax": "optax==0.2.8",
              "keras": "keras==3.15.0", "tensorflow": "tensorflow-cpu==2.21.0"}


def say(text):
    print(f"{pathlib.Path(sys.argv[0]).name}: {text}", file=sys.stderr, flush=True)


def fail(text):
    say(text)
    sys.exit(1)


def positive(text):
    """An argparse type."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; it must be 1 or more")
    return int(text)


def run(command, **options):
    result = subprocess.run([str(word) for word in command], **options)
    if result.returncode != 0:
        fail(f"this command failed with exit code {result.returncode}: "
             f"{' '.join(str(word) for word in command)}")


def mpi_environment():
    """The environment for mpirun: it refuses root unless it is told, and ranks that wait must yield
    where there are more of them than cores. What sessions measure stays in the build tree."""
    return {**os.environ, "XDG_CACHE_HOME": str(ROOT / "build" / "cache"),
            "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_mpi_yield_when_idle": "1"}


def missing_packages(with_tests, extra=()):
    """Packages that are needed and not installed."""
    build, _, tests = (ROOT / "tools" / "packages.txt").read_text().partition("# tests")
    wanted = build.split() + (tests.split() if with_tests else []) + list(extra)
    if shutil.which("dpkg-query") is None:
        fail("this is neither Debian nor Ubuntu; install these packages' counterparts, then run "
             f"pip install . and docs/examples/fashion_mnist.py by hand: {' '.join(wanted)}")
    listed = subprocess.run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *wanted],
                            capture_output=True, text=True).stdout
    installed = {line.split()[0] for line in listed.splitlines() if line.endswith(" installed")}
    return [package for package in wanted if package not in installed]


def root_prefix():
    """How a command becomes root's: nothing, sudo, or None when it may not."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"],
                                               capture_output=True).returncode == 0:
        return ["sudo", "-n"]
    return None


def install_system_packages(with_tests=False, extra=()):
    missing = missing_packages(with_tests, extra)
    if not missing:
        return
    prefix = root_prefix()
    line = f"apt-get update && apt-get install -y --no-install-recommends {' '.join(missing)}"
    if prefix is None:
        fail(f"system packages are missing; type this line and start again:\nsudo sh -c '{line}'")
    say(f"installing {len(missing)} system packages: {' '.join(missing)}")
    quiet = {"stdout": subprocess.DEVNULL}
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*prefix, "apt-get", "update", "-q"], env=environment, **quiet)
    required = [package for package in missing if package != "dataset-fashion-mnist"]
    if required:
        run([*prefix, "apt-get", "install", "-qy", "--no-install-recommends", *required],
            env=environment, **quiet)
    if "dataset-fashion-mnist" in missing:
        got = subprocess.run([*prefix, "apt-get", "install", "-qy", "--no-install-recommends",
                              "dataset-fashion-mnist"], env=environment, **quiet)
        if got.returncode != 0:
            say("dataset-fashion-mnist cannot be had here; scikit-learn's digits take its place")


def has_module(name):
    probe = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{name}') is None)"
    return subprocess.run([PYTHON, "-c", probe], capture_output=True).returncode == 0


def install_python_packages(extra=()):
    if not PYTHON.exists():
        say("making .venv")
        run([sys.executable, "-m", "venv", VENV])
    pip = [PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted = [] if has_module("torch") else [TORCH]
    wanted += [] if has_module("numpy") else ["numpy"]
    if not pathlib.Path("/usr/share/datasets/fashion-mnist").is_dir() and not has_module("sklearn"):
        wanted.append("scikit-learn")
    wanted += [FRAMEWORKS.get(name, name) for name in extra if not has_module(name)]
    if wanted:
        say(f"installing {' '.join(wanted)}")
        run([*pip, *wanted])
    fingerprint = source_fingerprint()
    if STAMP.exists() and STAMP.read_text() == fingerprint:
        return
    say("building and installing scalecom")
    run([*pip, ROOT])
    STAMP.write_text(fingerprint)


def source_fingerprint():
    """Changes whenever a file that is built or installed does."""
    digest = hashlib.sha256(sys.version.encode())
    folders = ("include", "src", "runtime", "bindings", "tools", "cmake")
    files = [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    files += [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))
              if path.is_file() and path.suffix != ".pyc"]
    for path in files:
        digest.update(str(path.relative_to(ROOT)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
