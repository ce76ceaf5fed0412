"""start.sh and start.bat: which Python they use, which PyTorch they install, and what they skip the second time."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT
from tools import launch
from tools.launch import Card

BASH = shutil.which("bash")
needs_bash = pytest.mark.skipif(os.name == "nt" or BASH is None, reason="start.sh is for systems with bash")

TURING_ON, PASCAL, BLACKWELL = (8, 6), (6, 1), (12, 0)


@pytest.mark.parametrize(
    ("found", "system", "build"),
    [
        ([], "win32", None),
        ([], "linux", None),
        ([Card(591, TURING_ON)], "win32", "cu130"),
        ([Card(580, TURING_ON)], "linux", None),
        ([Card(566, TURING_ON)], "win32", "cu126"),
        ([Card(535, TURING_ON)], "linux", "cu126"),
        ([Card(581, PASCAL)], "win32", "cu126"),
        ([Card(580, PASCAL)], "linux", "cu126"),
        ([Card(572, BLACKWELL)], "win32", "cu130"),
        ([Card(570, BLACKWELL)], "linux", None),
        ([Card(527, None)], "win32", "cu126"),
        ([Card(581, PASCAL), Card(581, BLACKWELL)], "win32", "cu130"),
        ([Card(581, TURING_ON)], "darwin", None),
    ],
)
def test_the_best_card_decides_which_build_of_pytorch_it_gets(found, system, build):
    assert launch.torch_build(found, system) == build


def test_the_table_of_builds_is_for_the_pytorch_that_is_installed():
    """Another version has other builds: https://github.com/pytorch/pytorch/blob/main/RELEASE.md."""
    assert launch.torch_version().startswith("2.13.")


def executable(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!{BASH}\n{text}\n")
    (folder / name).chmod(0o755)


@needs_bash
@pytest.mark.parametrize(
    ("says", "found"),
    [
        ('echo "581.29, 8.6"; echo "581.29, 12.0"', [Card(581, (8, 6)), Card(581, (12, 0))]),
        ('[[ $1 != *compute_cap* ]] || { echo "not a valid field"; exit 2; }; echo 472.12', [Card(472, None)]),
        ('echo "[N/A], [N/A]"', []),
        ("echo could not talk to the driver; exit 9", []),
    ],
    ids=["new", "old", "unknown", "broken"],
)
def test_cards_are_those_that_nvidia_smi_names(tmp_path, monkeypatch, says, found):
    executable(tmp_path / "bin", "nvidia-smi", says)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert launch.cards() == found


@pytest.fixture
def called(tmp_path, monkeypatch):
    """Installs nothing; returns the commands that would have been called."""
    calls = []

    def run(command, **_):
        words = [str(word) for word in command]
        calls.append(words)
        if words[1:3] == ["-m", "venv"]:
            python = launch.python_in(Path(words[3]))
            python.parent.mkdir(parents=True)
            python.touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    for name in ("requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(launch, "ROOT", tmp_path)
    monkeypatch.setattr(launch, "cards", list)
    monkeypatch.setattr("tools.launch.subprocess.run", run)
    return calls


def installs(calls) -> list[list[str]]:
    return [words[4:] for words in calls if words[1:4] == ["-m", "pip", "install"]]


def test_what_is_there_is_skipped_until_requirements_change(tmp_path, called):
    folder = tmp_path / "with a space"
    launch.set_up(folder)
    assert called[0] == [sys.executable, "-m", "venv", str(folder)] and len(installs(called)) == 1
    launch.set_up(folder)
    assert len(installs(called)) == 1
    launch.set_up(folder, dev=True)
    assert installs(called)[1][2:] == ["-e", f"{tmp_path}[dev]"]
    launch.set_up(folder)
    assert len(installs(called)) == 2, "more is there than asked for"
    with (tmp_path / "requirements.txt").open("a") as file:
        file.write("another==1\n")
    launch.set_up(folder)
    assert len(installs(called)) == 3 and sum("venv" in words for words in called) == 1


def test_an_install_that_failed_is_not_taken_for_done(tmp_path, called, monkeypatch):
    folder, works = tmp_path / "venv", launch.subprocess.run

    def pip_fails(words, **_):
        return subprocess.CompletedProcess(words, 1, "", "") if "pip" in words else works(words)

    monkeypatch.setattr("tools.launch.subprocess.run", pip_fails)
    with pytest.raises(launch.NotSetUp, match=r"requirements\.txt"):
        launch.set_up(folder)
    assert not launch.is_set_up(folder, dev=False)


def test_a_card_on_windows_gets_pytorchs_own_build_next_to_the_users_index(tmp_path, called, monkeypatch):
    monkeypatch.setattr(launch, "cards", lambda: [Card(591, TURING_ON)])
    monkeypatch.setattr(launch.sys, "platform", "win32")
    launch.set_up(tmp_path / "venv")
    first, second = installs(called)
    assert first[0] == f"torch=={launch.torch_version()}+cu130" and first[1] == "--extra-index-url"
    assert "--index-url" not in first and second[0] == "-r"


@pytest.mark.parametrize(("there", "kept"), [("2.13.0+cu130", True), ("2.13.0+cpu", False), ("2.13.0", False)])
def test_a_build_with_cuda_that_the_user_has_installed_stays(tmp_path, called, monkeypatch, there, kept):
    monkeypatch.setattr(launch, "torch_build", lambda *_: "cu126")
    monkeypatch.setattr(launch, "torch_version", lambda: "2.13.0")
    monkeypatch.setattr(launch, "installed", lambda *_: there)
    launch.set_up(tmp_path / "venv")
    assert len(installs(called)) == (1 if kept else 2)


def test_a_folder_of_the_users_is_no_environment_and_stays(tmp_path, called):
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "mine.txt").write_text("mine")
    with pytest.raises(launch.NotSetUp, match="venv"):
        launch.set_up(tmp_path / "venv")
    assert (tmp_path / "venv" / "mine.txt").read_text() == "mine" and not called


@pytest.mark.parametrize(
    ("words", "runs"),
    [
        ([], ["purecc_gui.py"]),
        (["--demo", "--overwrite"], ["purecc_train.py", "presets/demo.toml", "--overwrite"]),
        (["--test", "tests/test_flow.py"], ["-m", "pytest", "tests/test_flow.py"]),
        (["--test"], ["-m", "pytest", "tests"]),
        (["train", "--config_file", "my file.toml"], ["purecc_train.py", "--config_file", "my file.toml"]),
    ],
)
def test_each_word_starts_its_command_and_hands_arguments_on(tmp_path, called, monkeypatch, words, runs):
    for name in ("train", "gui"):
        (tmp_path / f"purecc_{name}.py").touch()
    monkeypatch.setattr(launch, "start", lambda folder, *words, where=None: called.append(list(words)) or 7)
    assert launch.main(words) == 7
    assert set(runs) <= {word.removeprefix(f"{tmp_path}{os.sep}") for word in called[-1]}
    for check in (["-m", "ruff", "check", "."], ["-m", "codespell_lib"], ["-m", "mypy"]):
        assert (check in [words[1:] for words in called]) == (words[:1] == ["--test"])


@pytest.mark.parametrize("fails", ["ruff", "codespell_lib", "mypy"])
def test_no_test_runs_where_a_check_before_them_fails(tmp_path, called, monkeypatch, fails):
    passes = launch.subprocess.run

    def run(words, **how):
        done = passes(words, **how)
        return subprocess.CompletedProcess(words, 3, "", "") if words[1:3] == ["-m", fails] else done

    monkeypatch.setattr("tools.launch.subprocess.run", run)
    monkeypatch.setattr(launch, "start", lambda *_, **__: pytest.fail("it goes on"))
    assert launch.test(tmp_path / "venv", []) == 3


def test_a_command_that_is_not_there_is_reported_before_anything_is_installed(called, capsys):
    assert launch.main(["trian"]) == 2
    assert "purecc_trian.py doesn't exist" in capsys.readouterr().err and not called


def run_start(path: Path, script: str, *words: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": str(path)}
    return subprocess.run([BASH, ROOT / script, *words], env=environment, capture_output=True, text=True)


@pytest.fixture
def path(tmp_path) -> Path:
    """A PATH with only what start.sh itself needs."""
    for name in ("dirname", "bash"):
        executable(tmp_path / "bin", name, f'exec {shutil.which(name)} "$@"')
    return tmp_path / "bin"


FITS, TOO_OLD = 'case $1 in -c) ;; *) echo "$0" "$@" ;; esac', "exit 1"


@needs_bash
def test_the_first_python_that_fits_is_taken(path):
    executable(path, "python3", TOO_OLD)
    executable(path, "python3.12", FITS)
    done = run_start(path, "start.sh", "train", "--prompt", "a [V] dog")
    assert done.stdout.split(" ", 1)[0] == str(path / "python3.12")
    assert done.stdout.endswith("tools/launch.py train --prompt a [V] dog\n")
    assert run_start(path, "install.sh").stdout.endswith("tools/launch.py --install\n")


@needs_bash
@pytest.mark.parametrize("names", [[], ["python3", "python"]], ids=["none", "too old"])
def test_without_a_python_that_fits_there_is_a_sentence(path, names):
    for name in names:
        executable(path, name, TOO_OLD)
    done = run_start(path, "start.sh")
    assert done.returncode == 2 and "No Python 3.11 to 3.14" in done.stderr and not done.stdout


@pytest.mark.parametrize("script", ["start.sh", "start.bat"])
def test_scripts_take_the_pythons_that_the_package_is_for(script):
    text = (ROOT / script).read_text(encoding="ascii")
    first, last = (int(one) for one in re.findall(r"3, (\d+)\)", text)[:2])
    assert f'requires-python = ">=3.{first},<3.{last + 1}"' in (ROOT / "pyproject.toml").read_text()
    tried = {int(one) for one in re.findall(r"(?<![\d.])3\.(\d+)", text)}
    assert tried == set(range(first, last + 1))


def check_of(script: str) -> str:
    return re.search(r"fits='?(import sys[^'\"]*)", (ROOT / script).read_text())[1]


@pytest.mark.parametrize(("version", "fits"), [((3, 10), False), ((3, 11), True), ((3, 14), True), ((3, 15), False)])
def test_both_scripts_check_a_python_alike(version, fits):
    assert check_of("start.sh") == check_of("start.bat")
    pretended = f"import sys; sys.version_info = {version}; {check_of('start.sh')}"
    assert (subprocess.run([sys.executable, "-S", "-c", pretended]).returncode == 0) == fits


def test_a_damaged_stamp_is_none(tmp_path, called):
    launch.set_up(tmp_path / "venv")
    for text in ("{", "[]", '"x"', json.dumps({"wanted": launch.wanted()})):
        (tmp_path / "venv" / launch.STAMP).write_text(text)
        assert not launch.is_set_up(tmp_path / "venv", dev=False)
