"""The whole path in a real browser: from pictures to a LoRA in ComfyUI, with a killed window and a stopped run.

`WINDOW_SHOTS=FOLDER` keeps a screenshot of each screen, in light and dark, wide and narrow.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest

from gui import declared
from library.report.status import read_status
from tests.helpers.browser import WHY_NOT, Browser, browser, chromium
from tests.helpers.places import ROOT
from tests.helpers.window import until

STATE = "document.querySelector('#part-progress')?.dataset.state"
LONG = 900.0
"""Seconds that a step may take on a computer with much else to do."""
QUICK = """
audit = false
log_with = "none"
replay_images = 2
replay_sample_steps = 2
context_train_steps = 2
sample_steps = 2
sample_seeds = 1
sample_strengths = []
max_train_steps = 4
sample_every_n_steps = 2
save_every_n_steps = 2
"""
"""What makes the run small; no other value of the window's own way is changed."""
SIZES = ((1280, 900), (420, 900))


class Window:
    """`purecc_gui.py` in a separate process, on a fixed port."""

    def __init__(self, projects: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.projects, self.process = projects, None

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        words = [sys.executable, "purecc_gui.py", "--no_browser", "--port", str(self.port), "--projects"]
        self.process = subprocess.Popen([*words, str(self.projects)], cwd=ROOT, stderr=subprocess.DEVNULL)
        end = time.monotonic() + LONG
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(self.address, timeout=5).close()
                return
            except OSError:
                assert self.process.poll() is None, "the window has ended"
                time.sleep(0.2)
        raise AssertionError("the window did not open")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def window(tmp_path):
    opened = Window(tmp_path / "projects")
    opened.open()
    yield opened
    opened.kill()
    for file in opened.projects.glob("*/runs/*/status.json"):  # a failed test leaves no trainer behind
        status = read_status(file.parent)
        if status.get("state") == "running" and psutil.pid_exists(status["pid"]):
            psutil.Process(status["pid"]).kill()


def shots(page: Browser, name: str) -> None:
    folder = os.environ.get("WINDOW_SHOTS")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for dark in (False, True):
        for width, height in SIZES:
            page.look(width, height, dark)
            time.sleep(0.3)
            page.picture(Path(folder) / f"{name}-{width}{'-dark' if dark else ''}.png")
    page.look()


def loaded(page: Browser, ends: str) -> None:
    page.wait(
        f"location.pathname.endsWith('{ends}') && document.readyState === 'complete' && window.htmx !== undefined"
    )


def test_what_makes_the_run_small_are_settings_of_the_trainer():
    assert declared.from_toml(QUICK)["max_train_steps"] == 4


@pytest.mark.skipif(chromium() is None, reason=WHY_NOT)
def test_from_pictures_to_a_lora_in_comfyui(window, tmp_path):
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "models" / "checkpoints").mkdir(parents=True)
    (comfyui / "custom_nodes").mkdir()
    pictures = sorted((ROOT / "pocket" / "subject-creature").glob("*.png"))
    with browser(tmp_path / "profile") as page:
        page.look()
        begin = time.monotonic()
        to_start(page, window, pictures)
        folder = next(window.projects.glob("*/runs/001"))
        trainer = at_its_first_step(folder)
        seconds = time.monotonic() - begin
        print(f"\n{page.clicks} clicks, {page.texts} texts, {seconds:.0f} s from the first page to the first step")
        assert page.clicks <= 7 and page.texts <= 3
        while_it_trains(page, window, folder)
        stop_and_resume(page, folder, trainer)
        shots(page, "4-done")
        result(page, window, comfyui, folder)
        page.go(f"{window.address}/queue")
        shots(page, "7-queue")
        assert page.complaints == []


def to_start(page: Browser, window: Window, pictures: list[Path]) -> None:
    """From nothing to a started run, as a person does it."""
    page.go(window.address)
    shots(page, "1-home")
    page.type("input[name=name]", "Café bear")
    page.click("form.new button")
    loaded(page, "/Caf%C3%A9-bear")
    page.type("input[name=class_word]", "creature")
    page.choose_files("#files", pictures)
    page.wait("document.querySelectorAll('#grid li').length === 5", LONG)
    page.wait("!document.querySelector('#grid').innerText.includes('Looking')", LONG)
    assert "nearly the same background" in page.text()
    shots(page, "2-pictures")
    page.click(".tabs a", "Captions")
    loaded(page, "/captions")
    page.click(".tools button", "Fill")
    page.wait("[...document.querySelectorAll('textarea')].every(one => one.value === 'a [V] creature')", LONG)
    page.wait("document.querySelector('.triple')?.innerText.includes('ohwx')", LONG)
    shots(page, "3-captions")
    page.click(".tabs a", "Plan")
    loaded(page, "/plan")
    shots(page, "3-plan-at-first")
    make_it_quick(page)
    page.click("#start")
    loaded(page, "/runs/001")


def make_it_quick(page: Browser) -> None:
    """Sets tiny values on the page of all settings, which no user does. It is not counted."""
    counted, plan = (page.clicks, page.texts), page.js("location.href")
    if os.environ.get("WINDOW_SHOTS"):
        page.wait("document.querySelector('#forecast .numbers')", LONG)
        shots(page, "3-plan")
    page.click("a.button", "All settings")
    loaded(page, "/settings")
    page.click("summary", "Your changes as TOML")
    page.type("#toml", QUICK)
    page.click("form button", "Save")
    page.wait("document.querySelector('#settings li.changed')", LONG)
    assert not page.js("document.querySelector('#all .problem')?.innerText")
    shots(page, "3-settings")
    page.go(plan)
    page.clicks, page.texts = counted


def at_its_first_step(folder: Path) -> psutil.Process:
    """The trainer after its first step, where it waits until released, on any computer."""
    end = time.monotonic() + LONG
    while time.monotonic() < end:
        status = read_status(folder)
        if status.get("total_step"):
            trainer = psutil.Process(status["pid"])
            trainer.suspend()
            return trainer
        time.sleep(0.01)
    raise AssertionError((folder / "output.log").read_text())


def while_it_trains(page: Browser, window: Window, folder: Path) -> None:
    """A reload, and a killed window that is opened again: the page shows the current state."""
    page.go(page.js("location.href"))
    page.wait(f"{STATE} === 'running'", LONG)
    page.click("button", "Sample now")
    until(lambda: (folder / "control" / "sample").exists())
    shots(page, "4-training")
    window.kill()
    page.wait("!document.querySelector('#offline').hidden", LONG)
    window.open()
    page.wait("document.querySelector('#offline').hidden", LONG)
    page.wait(f"{STATE} === 'running'", LONG)
    page.complaints[:] = [one for one in page.complaints if "ERR_CONNECTION_REFUSED" not in one]


def stop_and_resume(page: Browser, folder: Path, trainer: psutil.Process) -> None:
    """Stop saves, Resume trains to the end."""
    page.click("button", "Stop")
    page.wait(f"{STATE} === 'stopping'", LONG)
    trainer.resume()
    page.wait(f"{STATE} === 'stopped'", LONG)
    stopped = read_status(folder)
    assert stopped["exit_code"] == 130 and stopped["total_step"] < stopped["total_steps"]
    page.click("button", "Resume")
    page.wait(f"{STATE} === 'done'", LONG)
    done = read_status(folder)
    assert done["total_step"] == done["total_steps"] == 4 and done["pid"] != stopped["pid"]


def result(page: Browser, window: Window, comfyui: Path, folder: Path) -> None:
    """Into ComfyUI, and a prompt."""
    page.go(window.address)
    page.type("input[name=ui]", str(comfyui))
    page.click("button", "Look there")
    page.wait("document.body.innerText.includes('Still missing')", LONG)
    page.click(".projects a.state")
    loaded(page, "/runs/001")
    page.click("a.button", "See the result")
    loaded(page, "/result")
    assert page.js("document.querySelectorAll('#choose [name=step]').length") == 2  # step 2, and the end
    page.click("button", "Put it into ComfyUI")
    page.wait("document.querySelector('#delivered').innerText.includes('ohwx creature')", LONG)
    copied = comfyui / "models" / "loras" / "Café-bear.safetensors"
    assert copied.read_bytes() == (folder / "Café-bear.safetensors").read_bytes()
    page.type("input[name=prompt]", "a [V] creature in the snow")
    page.click("button", "Draw")
    page.wait("document.querySelector('#trials img')?.naturalWidth > 0", LONG)
    page.click("summary", "Compare with another LoRA")
    page.click("button", "Make its report card")
    page.wait("document.querySelectorAll('#audits .letter').length === 3", LONG)
    shots(page, "5-result")
