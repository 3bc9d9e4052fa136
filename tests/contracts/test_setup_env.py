"""The set-up script does nothing when it need not, and all it must when it must; `uv` only pretends here."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Notes its arguments, makes what `uv venv` makes, and misbehaves as PRETEND says.
PRETENDED_UV = """#!{python}
import os, pathlib, sys, time
arguments = sys.argv[1:]
pretend = os.environ.get("PRETEND", "")
with open({log!r}, "a") as log:
    log.write(" ".join(arguments) + " native=" + os.environ.get("MINICPM_NATIVE", "1") + "\\n")
if arguments[0] == "venv":
    venv = pathlib.Path(arguments[-1])
    (venv / "bin").mkdir(parents=True)
    (venv / "bin/python").symlink_to(sys.executable)
    (venv / "lib/python{version}/site-packages").mkdir(parents=True)
    if pretend == "no venv":
        sys.exit("a part of Python is missing")
elif "-e" in arguments and pretend == "no build" and os.environ.get("MINICPM_NATIVE") != "0":
    sys.exit("c++: internal error")
elif "-e" not in arguments and pretend == "no network":
    print(*(f"line {{n}}" for n in range(100)), "no route to host", sep="\\n")
    sys.exit(3)
elif pretend == "slow":
    time.sleep(0.4)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pretended uv is a POSIX script")


class Project:
    """A small copy of the repository whose `uv` only pretends, in a folder with a blank in its name."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "my project"
        self.venv = self.root / ".venv"
        self.log = folder / "log"
        for name in ("tools", "constraints", "native"):
            shutil.copytree(
                ROOT / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__", "build")
            )
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.programs = folder / "bin"
        self.programs.mkdir()
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        self.add_program("uv", PRETENDED_UV.format(python=sys.executable, log=str(self.log), version=version))
        self.add_program("c++", "#!/bin/sh\n")

    def add_program(self, name: str, text: str) -> None:
        """Puts a script on the PATH."""
        path = self.programs / name
        path.write_text(text, encoding="utf-8")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def start(self, *arguments: str, pretend: str = "") -> subprocess.Popen[str]:
        """Starts the set-up."""
        return subprocess.Popen(
            [sys.executable, str(self.root / "tools/setup_env.py"), *arguments],
            env={"PATH": str(self.programs), "PRETEND": pretend, "PYTHONDONTWRITEBYTECODE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, pretend: str = "") -> tuple[int, str]:
        """(exit code, what went to stderr) of a whole set-up, which never writes to stdout."""
        process = self.start(*arguments, pretend=pretend)
        output, errors = process.communicate(timeout=60)
        assert output == ""
        return process.returncode, errors

    def calls(self) -> list[str]:
        """What the pretended uv was asked since the last look."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def add_package(self, name: str, version: str, *, whole: bool = True) -> Path:
        """Pretends that a package was installed, or half installed."""
        found = next(self.venv.glob("lib/*/site-packages")) / f"{name}-{version}.dist-info"
        found.mkdir()
        if whole:
            (found / "RECORD").touch()
        return found


@pytest.fixture
def project(tmp_path):
    """A project that was never set up."""
    return Project(tmp_path)


@pytest.fixture
def ready(project):
    """A project whose set-up is done and whose log is empty."""
    assert project.run()[0] == 0
    project.calls()
    return project


def test_a_first_set_up_makes_fills_and_stamps(project):
    code, errors = project.run()
    assert code == 0
    made, dependencies, package = project.calls()
    assert made.startswith("venv")
    assert "constraints/cpu.txt" in dependencies
    assert "torch>=2.6" in dependencies
    assert "import-linter" not in dependencies
    assert f"--no-deps -e {project.root} native=1" in package
    assert "ready after" in errors.splitlines()[-1]


def test_a_fresh_environment_is_left_alone_without_a_word(ready):
    assert ready.run() == (0, "")
    assert ready.calls() == []


def test_a_fresh_environment_with_tools_serves_who_needs_none(project):
    project.run("dev")
    assert any("import-linter" in call for call in project.calls())
    assert project.run() == (0, "")


def test_asking_for_an_extra_makes_an_environment_stale(ready):
    assert ready.run("dev")[0] == 0
    assert any("import-linter" in call for call in ready.calls())


@pytest.mark.parametrize("changed", ["pyproject.toml", "native/version.cpp", "constraints/cpu.txt"])
def test_a_changed_source_refreshes_and_keeps_the_extras(changed, project):
    project.run("dev")
    project.calls()
    with (project.root / changed).open("a", encoding="utf-8") as source:
        source.write("\n")
    assert project.run()[0] == 0
    dependencies, _package = project.calls()
    assert "import-linter" in dependencies


def test_a_torch_that_is_there_stays(ready):
    ready.add_package("torch", "2.9.1+cu128")
    (ready.venv / "minicpm.stamp").unlink()
    _code, errors = ready.run()
    assert "keeping torch 2.9.1+cu128" in errors
    assert "cpu.txt" not in ready.calls()[0]
    assert (ready.venv / "torch.constraint").read_text(encoding="utf-8") == "torch==2.9.1+cu128\n"


def test_with_a_graphics_card_torch_is_not_pinned_to_the_processor(project):
    project.add_program("nvidia-smi", "#!/bin/sh\n")
    project.run()
    assert "cpu.txt" not in project.calls()[1]


def test_a_half_installed_package_is_installed_again(ready):
    half = ready.add_package("tokenizers", "0.23.3", whole=False)
    (ready.venv / "minicpm.stamp").unlink()
    assert ready.run()[0] == 0
    assert not half.exists()


def test_a_failed_step_names_its_command_and_last_lines_and_leaves_no_stamp(project):
    code, errors = project.run(pretend="no network")
    assert code == 1
    assert "exit code 3" in errors
    assert f"{project.programs}/uv pip install" in errors
    assert errors.rstrip().endswith("no route to host")
    assert "line 99" in errors
    assert "line 50\n" not in errors
    assert not (project.venv / "minicpm.stamp").exists()
    assert project.run()[0] == 0


def test_an_environment_that_could_not_be_made_is_not_left_behind(project):
    assert project.run(pretend="no venv")[0] == 1
    assert not project.venv.exists()


def test_without_a_compiler_the_package_goes_without_its_compiled_part(project):
    (project.programs / "c++").unlink()
    code, errors = project.run()
    assert code == 0
    assert "no C++ compiler" in errors
    assert project.calls()[-1].endswith("native=0")
    assert project.run() == (0, "")


def test_a_compiler_that_came_later_is_used(project):
    (project.programs / "c++").rename(project.programs / "hidden")
    project.run()
    project.calls()
    (project.programs / "hidden").rename(project.programs / "c++")
    assert project.run()[0] == 0
    assert project.calls()[-1].endswith("native=1")


def test_a_build_that_fails_is_said_and_done_without(project):
    code, errors = project.run(pretend="no build")
    assert code == 0
    assert "c++: internal error" in errors
    assert [call[-8:] for call in project.calls()[2:]] == ["native=1", "native=0"]


def test_an_unknown_extra_is_refused_before_anything_changes(ready):
    code, errors = ready.run("devv")
    assert code == 1
    assert "no extra named devv" in errors
    assert ready.run() == (0, "")


def test_two_set_ups_at_once_do_the_work_once(project):
    first = project.start(pretend="slow")
    while not project.log.exists():
        time.sleep(0.01)
    second = project.start(pretend="slow")
    errors = [process.communicate(timeout=60)[1] for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0)
    assert len(project.calls()) == 3
    assert "waiting for the set-up that is already under way" in errors[1]


def test_an_interrupted_set_up_says_so_and_goes_on_the_next_time(project):
    process = project.start(pretend="slow")
    while not (project.log.exists() and "pip install" in project.log.read_text(encoding="utf-8")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert not (project.venv / "minicpm.stamp").exists()
    assert project.run()[0] == 0


def test_an_environment_of_a_moved_project_is_refreshed(ready):
    moved = ready.root.with_name("moved")
    ready.root.rename(moved)
    ready.root, ready.venv = moved, moved / ".venv"
    assert ready.run()[0] == 0
    assert f"-e {moved} " in ready.calls()[-1]


def test_an_old_python_is_refused_in_one_sentence(project):
    script = str(project.root / "tools/setup_env.py")
    pretend = (
        f"import runpy, sys; sys.version_info = (3, 9, 2); runpy.run_path({script!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", pretend], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("minicpm needs Python 3.11 or newer")
    assert len(done.stderr.splitlines()) == 1


def test_looking_at_a_fresh_environment_takes_a_moment(ready):
    def look() -> float:
        before = os.times()
        ready.run()
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    # 40 ms of processor time where it was measured, most of it Python's own start.
    assert min(look() for _ in range(3)) < 0.2
