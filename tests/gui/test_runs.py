"""Runs: each one's state is read from its files, whatever happened to the window or the trainer."""

import json
import time
from datetime import UTC, datetime

import psutil
import pytest
from starlette.testclient import TestClient

from gui import runs, waiting
from gui.app import make_app
from gui.guard import Access
from gui.machine import Machine
from gui.progress import Progress
from library.report.status import read_status
from tests.helpers.window import SECRET, until

PAGE = "/p/My-dog/runs/001"


def again(run: runs.Run) -> runs.Run:
    """The run in its current state."""
    return runs.load(run.project, run.name)


@pytest.mark.parametrize(
    ("status", "launch", "state"),
    [
        (None, None, "waiting"),
        (None, {}, "starting"),
        (None, {"pid": "gone"}, "failed"),
        ({}, {}, "running"),
        ({"pid": "gone"}, {}, "killed"),
        ({"state": "done", "pid": "gone"}, {}, "done"),
        ({"state": "stopped"}, {}, "stopped"),
        ({"state": "failed", "exit_reason": "NaN"}, {}, "failed"),
        ({"started_at": "2020-01-01T00:00:00+00:00", "state": "stopped"}, {}, "starting"),
        ({"started_at": "2020-01-01T00:00:00+00:00", "state": "stopped"}, {"pid": "gone"}, "failed"),
        ({"pid": "nonsense"}, {}, "killed"),
        ({}, {"at": "nonsense"}, "waiting"),
    ],
)
def test_a_run_stands_as_its_files_say(status, launch, state, new_run, ended_process, client):
    of = {"gone": ended_process}
    for values in (status, launch):
        if values and values.get("pid") in of:
            values = values.update(pid=of[values["pid"]])
    assert new_run(status, launch).state == state
    page = client.get(PAGE)
    assert page.status_code == 200 and f'data-state="{state}"' in page.text
    assert client.get("/").status_code == client.get("/queue").status_code == 200


def test_a_process_that_got_the_number_of_another_is_not_the_run(new_run):
    """The process is alive, but started long after the run."""
    run = new_run({}, {})
    run.status["started_at"] = "2020-01-01T00:00:00+00:00"
    assert run.state == runs.KILLED


def test_a_run_that_stops_says_so(new_run, client):
    run = new_run({}, {})
    (run.folder / "control").mkdir()
    client.post(f"{PAGE}/tell/save")
    assert again(run).state == runs.RUNNING and (run.folder / "control" / "save").is_file()
    client.post(f"{PAGE}/tell/stop")
    assert again(run).state == runs.STOPPING and "Stop now" in client.get(PAGE).text
    assert client.post(f"{PAGE}/tell/explode").status_code == 404


@pytest.mark.parametrize("wrong", [None, "x", -1, [1], {"a": 1}, float("nan"), True, "<script>alert(1)</script>"])
def test_any_status_has_a_page(wrong, new_run, client):
    fields = (
        "phases",
        "total_step",
        "total_steps",
        "steps_per_second",
        "seconds_left",
        "ends_at",
        "activity",
        "exit_reason",
    )
    run = new_run(dict.fromkeys(fields, wrong) | {"phases": [wrong, {"name": wrong, "seconds": wrong}]}, {})
    assert Progress.of(run).step == 0
    page = client.get(PAGE)
    assert page.status_code == 200 and "<script>alert" not in page.text


def test_parts_come_only_when_they_have_changed(new_run, client):
    run = new_run({"total_steps": 10, "total_step": 3, "activity": "student", "seconds_left": 5400}, {})
    part = client.get(f"{PAGE}/part/progress").text
    assert "ends at about" not in part and "3 of 10" in part and "Learning it" in part and "1.5 h" in part
    address = part.split('hx-get="')[1].split('"')[0]
    assert client.get(address).status_code == 204
    status = read_status(run.folder)
    at = datetime(2030, 1, 1, 15, 20).astimezone(UTC).isoformat()
    (run.folder / "status.json").write_text(
        json.dumps(status | {"updated_at": "later", "total_step": 4, "ends_at": at})
    )
    part = client.get(address).text
    assert "4 of 10" in part and "ends at about" in part and "15:20" in part
    assert client.get(f"{PAGE}/part/nothing").status_code == 404


def test_sheets_curves_and_log_are_shown(new_run, client):
    run = new_run({"total_steps": 10}, {})
    (run.folder / "samples").mkdir()
    for step in (0, 4):
        (run.folder / "samples" / f"student_{step:06d}.png").write_bytes(b"\x89PNG")
    rows = [{"stage": "student", "step": step, "loss": 1 / step, "lambda_star": 0.5} for step in (1, 2, 3)]
    (run.folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"stage": "stu')
    (run.folder / "output.log").write_bytes(
        "student:  10%\rstudent:  20%\n\x1b[31m<b>rot</b>\x1b[0m ä\n\xff".encode("latin-1")
    )
    page = client.get(PAGE).text
    assert "student_000004.png" in page and "Loss by step" in page and "student:  20%" in page
    assert "&lt;b&gt;rot" in page and "\x1b" not in page
    assert client.get(f"{PAGE}/samples/student_000004.png").content == b"\x89PNG"
    assert client.get(f"{PAGE}/samples/run.toml").status_code == 404


def test_prompts_can_be_changed_while_it_trains(new_run, client):
    run = new_run({}, {})
    assert "[V]" in run.prompts()
    client.post(f"{PAGE}/prompts", data={"prompts": "a [V] creature\r\n\r\na  house\n"})
    assert again(run).prompts() == "a [V] creature\na house\n"
    assert client.post(f"{PAGE}/prompts", data={"prompts": " \n"}).status_code == 422


# With a simulated trainer


@pytest.fixture
def let_go(project):
    """Ends what a test left running."""
    yield
    for run in runs.runs_of(project):
        runs.end_at_once(run)


def test_start_stop_and_resume(pretended, let_go, project, client):
    assert client.post("/p/My-dog/start").headers["hx-redirect"] == PAGE
    run = runs.load(project, "001")
    until(lambda: again(run).state == "running")
    assert again(run).status["resumed"] is None
    restarted = TestClient(make_app(project.folder.parent, Access(SECRET)), base_url="http://127.0.0.1")
    assert 'data-state="running"' in restarted.get(PAGE).text
    client.post(f"{PAGE}/tell/stop")
    until(lambda: again(run).state == "stopped")
    client.post(f"{PAGE}/resume")
    until(lambda: again(run).state == "running")
    assert again(run).status["resumed"] == "auto"
    assert client.post("/p/My-dog/remove").status_code == 422


def test_a_killed_trainer_is_seen_and_can_be_resumed(pretended, let_go, project, client):
    client.post("/p/My-dog/start")
    run = runs.load(project, "001")
    until(lambda: again(run).state == "running")
    psutil.Process(again(run).status["pid"]).kill()
    until(lambda: again(run).state == "killed")
    assert "Ended unexpectedly" in client.get(PAGE).text
    client.post(f"{PAGE}/resume")
    until(lambda: again(run).state == "running")


def test_a_mistake_of_the_trainer_is_shown_in_its_words(pretended, project, client):
    run = runs.create(project, Machine(), project.folder / "cache")
    (run.folder / "how").write_text("mistake")
    runs.start(run)
    until(lambda: again(run).state == "failed")
    page = client.get(PAGE).text
    assert "&#34;etta&#34; is not a setting" in page and "Did you mean" in page and "Resume" in page


def test_two_runs_train_one_after_the_other(pretended, let_go, project, root, client):
    client.post("/p/My-dog/start")
    client.post("/p/My-dog/start")
    one, two = runs.load(project, "001"), runs.load(project, "002")
    until(lambda: again(one).state == "running")
    assert [entry.run for entry in waiting.read(root)] == ["002"]
    assert "Number 1 in the" in client.get("/p/My-dog/runs/002").text
    waiting.advance(root)
    assert again(two).state == "waiting"
    psutil.Process(again(one).status["pid"]).kill()  # a failed run does not block the next
    until(lambda: again(one).state == "killed")
    waiting.advance(root)
    until(lambda: again(two).state == "running")
    assert waiting.read(root) == []


def test_the_open_window_starts_what_waits(pretended, let_go, project, root):
    run = runs.create(project, Machine(), root / "cache")
    (root / "queue.json").write_text(json.dumps([{"project": "My-dog", "run": "001"}]))
    with TestClient(make_app(root, Access(SECRET)), base_url="http://127.0.0.1"):
        until(lambda: again(run).state == "running")


def test_the_queue_can_be_ordered_held_and_timed(project, root, client, monkeypatch):
    started = []
    monkeypatch.setattr(runs, "start", lambda run: started.append(run.name))
    for _ in range(3):
        runs.create(project, Machine(), root / "cache")
    entries = [{"project": "My-dog", "run": f"00{n}"} for n in (1, 2, 3)]
    (root / "queue.json").write_text(json.dumps(entries))

    def tell(how, run, **more):
        return client.post(f"/queue/{how}", data={"project": "My-dog", "run": run, **more})

    tell("up", "003")
    tell("hold", "001")
    assert tell("at", "003", clock="25:00").status_code == 422
    tell("at", "003", clock="23:00")
    assert [(one.run, one.held, one.after[-5:]) for one in waiting.read(root)] == [
        ("001", True, ""),
        ("003", False, "23:00"),
        ("002", False, ""),
    ]
    monkeypatch.setattr(waiting, "datetime", type("Noon", (), {"now": staticmethod(lambda: Noon)}))
    waiting.advance(root)
    waiting.advance(root)
    assert started == ["002"]
    tell("release", "001")
    tell("remove", "003")
    waiting.advance(root)
    assert started == ["002", "001"] and waiting.read(root) == []
    (root / "queue.json").write_text("[{]")
    assert client.get("/queue").status_code == 200


class Noon:
    """A time before any time of day that a test sets."""

    @staticmethod
    def isoformat(timespec: str) -> str:
        return "2020-01-01T12:00"


def test_nobody_waits_for_a_run_whose_folder_is_gone(project, root):
    (root / "queue.json").write_text(json.dumps([{"project": "gone", "run": "001"}]))
    waiting.advance(root)
    assert waiting.read(root) == []


def test_a_second_start_of_a_live_run_is_refused(new_run):
    with pytest.raises(Exception, match="already running"):
        runs.start(new_run({}, {}))


def test_a_time_of_the_day_is_the_next_one_that_comes(project, root):
    runs.create(project, Machine(), root / "cache")
    (root / "queue.json").write_text(json.dumps([{"project": "My-dog", "run": "001"}]))
    now = runs.now().replace(year=2026, month=3, day=31, hour=23, minute=30)
    waiting.start_at(root, "My-dog", "001", "23:00", now)
    assert waiting.read(root)[0].after == "2026-04-01T23:00"
    waiting.start_at(root, "My-dog", "001", "23:45", now)
    assert waiting.read(root)[0].after == "2026-03-31T23:45"
    assert time.strptime(waiting.read(root)[0].after, "%Y-%m-%dT%H:%M")
