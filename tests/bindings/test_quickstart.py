"""tools/quickstart: its options, what it installs, and a whole run of it."""

import json
import pathlib
import subprocess
import sys

import pytest

TOOLS = pathlib.Path(__file__).resolve().parents[2] / "tools"
QUICKSTART = TOOLS / "quickstart"
KEYS = {"test_accuracy", "seconds", "step_ms", "bytes_per_step", "parameters", "ranks",
        "parameter_checksums"}


@pytest.fixture
def environment(monkeypatch):
    """tools/environment.py, whose commands are recorded instead of run."""
    monkeypatch.syspath_prepend(str(TOOLS))
    import environment
    monkeypatch.setattr(environment, "run",
                        lambda command, **_: commands.append([str(word) for word in command]))
    commands = environment.commands = []
    return environment


def call(*arguments, timeout=60):
    return subprocess.run([sys.executable, QUICKSTART, *arguments], check=False, text=True,
                          capture_output=True, timeout=timeout)


@pytest.mark.parametrize("arguments, message", [
    (["--ranks", "0"], "--ranks is 0; allowed are 1 to 64"),
    (["--ranks", "x"], "invalid int value"),
    (["--epochs", "0"], "--epochs is 0"),
    (["--json", "/no/such/folder/x.json"], "its folder does not exist"),
    (["--fast"], "unrecognized arguments: --fast"),
])
def test_bad_options_are_refused(arguments, message):
    result = call(*arguments)
    assert result.returncode == 2 and message in result.stderr


def test_missing_packages_are_one_line_to_type(environment, monkeypatch, capsys):
    monkeypatch.setattr(environment, "missing_packages", lambda with_tests, extra: ["libhwy-dev", "cmake"])
    monkeypatch.setattr(environment, "root_prefix", lambda: None)
    with pytest.raises(SystemExit):
        environment.install_system_packages()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("sudo ") and "apt-get install -y" in last
    assert "libhwy-dev cmake" in last
    assert not environment.commands


def test_missing_packages_are_installed_where_that_is_allowed(environment, monkeypatch):
    monkeypatch.setattr(environment, "missing_packages", lambda with_tests, extra: ["libhwy-dev"])
    monkeypatch.setattr(environment, "root_prefix", lambda: ["sudo", "-n"])
    environment.install_system_packages()
    update, install = environment.commands
    assert update[:4] == ["sudo", "-n", "apt-get", "update"]
    assert install[-1] == "libhwy-dev" and "install" in install


def test_packages_of_the_tests_are_not_needed_to_train(environment, monkeypatch):
    def asked_for(with_tests):
        seen = []

        def query(command, **_):
            seen.extend(command)
            return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

        monkeypatch.setattr(environment.subprocess, "run", query)
        monkeypatch.setattr(environment.shutil, "which", lambda name: name)
        environment.missing_packages(with_tests)
        monkeypatch.undo()
        return seen

    assert "catch2" in asked_for(with_tests=True)
    needed = asked_for(with_tests=False)
    assert "libopenmpi-dev" in needed and "catch2" not in needed


def test_a_changed_source_is_installed_again(environment, monkeypatch, tmp_path):
    for name in ("CMakeLists.txt", "pyproject.toml"):
        (tmp_path / name).write_text("")
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.cpp").write_text("int a;")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    first = environment.source_fingerprint()
    assert environment.source_fingerprint() == first
    (tmp_path / "src" / "a.cpp").write_text("int b;")
    assert environment.source_fingerprint() != first


@pytest.mark.slow
def test_the_two_trainings_agree_and_save_bytes(tmp_path):
    figures = tmp_path / "figures.json"
    result = call("--json", str(figures), timeout=900)
    assert result.returncode == 0, result.stderr
    runs = json.loads(figures.read_text())
    dense, scalecom = runs["dense"], runs["scalecom"]
    for run in (dense, scalecom):
        assert KEYS <= set(run)
        assert run["ranks"] == 4 and len(run["parameter_checksums"]) == 4
        assert len(set(run["parameter_checksums"])) == 1
    assert dense["test_accuracy"] > 0.88
    assert scalecom["test_accuracy"] >= dense["test_accuracy"] - 0.01
    assert dense["bytes_per_step"] >= 40 * scalecom["bytes_per_step"]
    # Ring or halving: 2 (n-1)/n of 4 bytes a parameter. Counted at the transport.
    assert dense["bytes_per_step"] == pytest.approx(1.5 * 4 * dense["parameters"], rel=0.02)
    assert "byte-true ratio" in result.stdout
