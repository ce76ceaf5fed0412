"""`report.html` and `status.json`: their contents, that they need no other file, and that captions are escaped."""

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from markupsafe import Markup
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from library.errors import (
    EXIT_FAULT,
    EXIT_INTERRUPTED,
    EXIT_TRAINING_ERROR,
    EXIT_USER_ERROR,
    ConfigError,
    Interrupted,
    TrainingError,
    exit_code_for,
    exit_code_of,
)
from library.files.atomic import write_text
from library.objectives import student_objective
from library.predictions import REPLAYED
from library.report import page
from library.report.charts import Curve, chart
from library.report.curves import LOSSES
from library.report.log import ON_REPLAYED
from library.report.page import Pictures, Section, page_of
from library.report.phases import Phases
from library.report.sheet import SheetRow, font_of, read_sheet, save_sheet
from library.report.status import Status, read_status
from library.training.listeners import Listener
from library.training.run import Run
from library.training.stage import Stage
from tests.helpers.datasets import DATASET
from tests.helpers.places import ROOT
from tests.helpers.tiny import tiny_settings

VOID = {"meta", "img", "input", "br", "hr", "link"}


class Adds:
    """Looks at a finished student by adding a section."""

    what = "the section"

    def __init__(self, section: Section) -> None:
        self.section = section

    def __call__(self, run: Run) -> None:
        run.listeners.tell(Listener.section_made, self.section)


EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> \"' & </style>"


class Page(HTMLParser):
    """A parsed page; an unclosed tag, or one closed twice, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self._open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert self._open == [], f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open and self._open[-1] == tag, f"</{tag}> closes <{self._open[-1:]}>"
        self._open.pop()

    def handle_data(self, data):
        if self._open[-1:] not in (["script"], ["style"]):
            self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def assert_stands_alone(text: str) -> None:
    """No attribute and no style fetches anything."""
    for tag, attributes in Page(text).tags:
        for name, value in attributes.items():
            if name in ("src", "href", "srcset", "action", "poster", "data"):
                assert value.startswith(("data:image/", "#")), f"<{tag} {name}={value[:60]}>"
        assert not any(name.startswith("on") for name in attributes), f"<{tag}> runs a script: {attributes}"
    assert "url(" not in text and "@import" not in text and "fetch(" not in text


class Ticking:
    """A clock that advances by a second on every reading, on any computer."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def monotonic(self) -> float:
        return float(next(self._seconds))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The report of a run whose prompts try to break out, and its folder."""
    import shutil

    from library.config.dataset_file import read_dataset_config
    from library.config.files import TomlFile, read_settings
    from library.preflight.plan import make_plan
    from tests.helpers.tiny import save_tiny_model

    folder = tmp_path_factory.mktemp("report")
    pictures = folder / "pictures"
    pictures.mkdir()
    for index in range(2):
        Image.new("RGB", (32, 32), (80 * index, 90, 200)).save(pictures / f"{index}.png")
        (pictures / f"{index}.txt").write_text(f"a [V] dog {EVIL}")
    (folder / "dataset.toml").write_text(DATASET.format(pictures=pictures))
    (folder / "samples.txt").write_text(f"a [V] dog {EVIL}\na blue house\n")
    settings = {"replay_images": 0, "replay_prompts": None, "sample_steps": 1, "sample_seeds": 2}
    settings |= {"sample_strengths": [0.25, 1.25], "metadata_author": EVIL}
    read = read_settings(None, {**tiny_settings(save_tiny_model(folder / "model"), folder), **settings})
    run = Run(make_plan(read, read_dataset_config(TomlFile(folder / "dataset.toml"), read.data)))
    run.looks.append(Adds(Section("more", "More", lambda pictures: Markup("<p>{}</p>").format(EVIL))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("library.report.phases.time", Ticking())
        run.train()
    shutil.rmtree(folder / "model")
    return run, (run.folder / "report.html").read_text(encoding="utf-8")


def test_the_report_has_every_section_and_links_to_it(report):
    parsed = Page(report[1])
    names = ["samples", "more", "curves", "pictures", "files", "cost", "settings"]
    assert [section["id"] for section in parsed.all("section")] == names
    assert [link["href"] for link in parsed.all("a")] == [f"#{name}" for name in names]


def test_the_report_needs_no_other_file(report):
    assert_stands_alone(report[1])
    assert len(report[1]) < page.MOST_BYTES


def test_captions_and_settings_are_text_and_never_html(report):
    text = report[1]
    assert "<script>alert" not in text and "onerror=alert(2)>" not in text
    shown = Page(text).text
    assert shown.count("<script>alert(1)</script>") >= 6  # prompt, three texts of each picture, author, added section


def test_every_picture_says_what_it_shows_and_every_slider_what_it_moves(report):
    parsed = Page(report[1])
    pictures, sliders = parsed.all("img"), [one for one in parsed.all("input") if one.get("type") == "range"]
    assert len(pictures) >= 2 * 2 * 2 * 2 + 2 and all(picture["alt"].strip() for picture in pictures)
    assert all(slider["aria-label"].strip() for slider in sliders)
    strips = 1 + len(report[0].settings.samples.sample_strengths)  # of the prompt with the concept
    assert len([slider for slider in sliders if "data-compare" in slider]) == (len(pictures) - 2 - strips) / 2


def test_the_strengths_of_the_lora_stand_in_a_row_behind_the_sliders(report):
    run, text = report
    shown = [strength for strength in ("0.25", "1.25") if f"<figcaption>{strength}</figcaption>" in text]
    assert shown == ["0.25", "1.25"] and 'class="strip"' in text
    titles = [run.monitor.report.galleries[kind].title for kind in ("student", "strengths", "extractor")]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


def test_every_loss_of_purecc_has_words_in_the_legend(plan_of):
    everything = plan_of(merged=True, prior_loss_weight=1.0, word_weight=1.0).settings
    names = {name for name, _, _ in student_objective(everything).terms}
    assert names >= {"surroundings", "prior", "extractor", "word"} and names <= LOSSES.keys()


def test_losses_of_replayed_pictures_are_known_as_such(plan_of):
    """Their noise levels are not the same as the user's pictures'."""
    objective = student_objective(plan_of(merged=True, prior_loss_weight=1.0, word_weight=1.0).settings)
    on_replayed = {name for name, _, term in objective.terms if term.readings[0].prediction.prompt in REPLAYED}
    assert on_replayed == ON_REPLAYED


def test_a_sheet_gives_its_pictures_back(tmp_path):
    eight_bits = torch.randint(0, 256, (2, 3, 40, 24), generator=torch.Generator().manual_seed(0))
    pictures = list(eight_bits.float() / 127.5 - 1)
    save_sheet(tmp_path / "s.png", "t", ["a", "b"], [SheetRow("concept", 'x "y" é', pictures)])
    title, columns, (row,) = read_sheet(tmp_path / "s.png")
    assert (title, columns, row.kind, row.prompt) == ("t", ["a", "b"], "concept", 'x "y" é')
    for one, two in zip(row.pictures, pictures, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=0)


@pytest.mark.parametrize("letter", "äéßñčœøΩЖя–“…")
def test_sheets_draw_letters_beyond_english(letter):
    font = font_of(14)
    assert bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))  # no such character: its replacement glyph


def test_the_font_is_found_without_what_is_slow_to_import():
    code = "import sys; from library.report import sheet; sheet.font_of(14); print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


@pytest.mark.parametrize("text", [None, "{", "[]", '{"title": "t", "columns": [], "rows": [{"boxes": [[0, 0]]}]}'])
def test_another_picture_is_not_a_sheet(tmp_path, text):
    about = PngInfo()
    if text is not None:
        about.add_itxt("purecc_sheet", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "s.png", pnginfo=about)
    assert read_sheet(tmp_path / "s.png") is None
    assert read_sheet(tmp_path / "nothing.png") is None


def test_the_report_of_a_resumed_run_shows_what_was_drawn_and_saved_before(plan_of, monkeypatch):
    given = {"audit": False, "save_every_n_steps": 1, "sample_every_n_steps": 1, "save_state_every_n_steps": 1}
    run, step = Run(plan_of(max_train_steps=4, **given)), Stage.step

    def fails(self):
        if self.name == "student" and self.done == 2:
            raise TrainingError("stopped here")
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Stage, "step", fails)
        with pytest.raises(TrainingError):
            run.train()
    again = Run(plan_of(max_train_steps=4, resume="auto", **given))
    again.open_log()
    again.monitor.report.draw()
    text = (run.folder / "report.html").read_text()
    for kind in ("extractor", "student"):
        before, now = run.monitor.report.galleries[kind], again.monitor.report.galleries[kind]
        assert (now.title, now.columns) == (before.title, before.columns) and now.title in text
        for one, two in zip(before.rows, now.rows, strict=True):
            assert one.prompt == two.prompt
            for a, b in zip(one.pictures, two.pictures, strict=True):
                torch.testing.assert_close(a, b, atol=1 / 127, rtol=0)
    assert "tiny-step00000001.safetensors" in text and "tiny-step00000002.safetensors" in text
    again.log.close()


def test_the_report_shows_dark_and_light_and_fits_a_phone(report):
    assert "prefers-color-scheme:dark" in report[1] and "max-width:34rem" in report[1]
    assert any(meta.get("name") == "viewport" for meta in Page(report[1]).all("meta"))


def test_the_report_says_what_was_saved_and_where_it_goes(report):
    run, text = report
    shown = Page(text).text
    assert "sks dog" in shown
    for path in run.monitor.report.files:
        assert path.name in shown
    for place in ("models/loras", "models/Lora", "load_lora_weights"):
        assert place in shown


def test_words_and_vectors_are_not_loras_and_what_was_saved_last_stands_first(report, tmp_path):
    run, _ = report
    files, folder = run.monitor.report.files, run.folder
    for name in ("tiny_embedding.safetensors", "tiny-step00000001.safetensors"):
        (folder / name).write_bytes(b"x")
    run.monitor.report.files = {
        **files,
        folder / "tiny-step00000001.safetensors": 1,
        folder / "tiny_embedding.safetensors": 2,
    }
    section = next(section for section in run.monitor.report.sections if section.name == "files")
    html = str(section.build(Pictures(64)))
    run.monitor.report.files = files
    rows = {re.search(r"<code>([^<]+)</code>", row)[1]: row for row in html.split("<tr>")[2:]}
    assert "models/embeddings" in rows["tiny_embedding.safetensors"]
    assert not any("models/loras" in rows[f"tiny_{kind}.safetensors"] for kind in ("embedding", "concept", "extractor"))
    assert list(rows)[-2:] == ["tiny-step00000001.safetensors", "tiny_extractor.safetensors"]
    assert "0 kB" in rows["tiny_embedding.safetensors"] and "0.0 MB" not in html


def test_time_and_memory_of_each_phase_are_measured(report):
    run, _ = report
    phases = {phase["name"]: phase for phase in read_status(run.folder)["phases"]}
    assert {"text", "latents", "loading", "extractor", "student", "sheets", "check of the files"} <= set(phases)
    assert all(phase["seconds"] > 0 for phase in phases.values())


def test_the_status_of_a_run_that_is_done(report):
    status = read_status(report[0].folder)
    assert (status["state"], status["exit_code"], status["seconds_left"]) == ("done", 0, 0)
    assert (status["stage"], status["step"], status["steps"]) == ("student", 2, 2)
    assert (status["total_step"], status["total_steps"]) == (4, 4)
    assert status["files"] == ["tiny.safetensors", "tiny_diffusers.safetensors", "tiny_concept.safetensors"]
    assert status["report"] == "report.html" and "concept" in status["last"]


# A page


def test_a_page_of_many_large_pictures_stays_below_its_limit(monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 600_000)
    noise = torch.randint(0, 255, (700, 700, 3), generator=torch.Generator().manual_seed(0)).byte()
    image = Image.fromarray(noise.numpy())
    section = Section("all", "All", lambda pictures: Markup().join(pictures.tag(image, "noise") for _ in range(12)))
    text = page_of("t", "l", [section])
    assert 100_000 < len(text.encode()) <= 600_000
    assert len(Page(text).all("img")) == 12


def test_a_section_without_content_is_left_out():
    text = page_of("t", "l", [Section("none", "None", lambda _: ""), Section("some", "Some", lambda _: "<p>x</p>")])
    assert [section["id"] for section in Page(text).all("section")] == ["some"]


def test_small_pictures_are_kept_to_the_pixel():
    import base64
    from io import BytesIO

    noise = torch.randint(0, 255, (64, 64, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    source = Pictures(512).source(Image.fromarray(noise))
    back = Image.open(BytesIO(base64.b64decode(source.split(",")[1])))
    assert (torch.tensor(list(back.getdata())).view(64, 64, 3).numpy() == noise).all()


def test_a_chart_goes_through_its_points_and_holds_their_values():
    curve = Curve("</script><b>", "about", [(step, 2.0**-step) for step in range(1, 9)])
    drawn = str(chart("t", [curve], logarithmic=True))
    parsed = Page(f"<div>{drawn}</div>")
    thin = next(path["d"] for path in parsed.all("path") if "thin" in path["class"])
    places = [tuple(map(float, point.split(","))) for point in thin[1:].split("L")]
    assert len(places) == 8
    falls = [after[1] - before[1] for before, after in itertools.pairwise(places)]
    assert max(falls) - min(falls) <= 0.21 and min(falls) > 0  # on a logarithm, halving is a straight line downwards
    data = re.search(r'<script type="application/json">(.*?)</script>', drawn, re.DOTALL)[1]
    assert [point[:2] for point in json.loads(data)["curves"][0]["points"]] == [
        [s, float(f"{2.0**-s:.4g}")] for s in range(1, 9)
    ]


@pytest.mark.parametrize("values", [[0.0, 0.0], [5.0], [-1.0, 1.0], [1e-12, 1e12]], ids=str)
@pytest.mark.parametrize("logarithmic", [True, False])
def test_any_values_make_a_chart_or_none(values, logarithmic):
    drawn = str(chart("t", [Curve("c", "", list(enumerate(values)))], logarithmic))
    assert "nan" not in drawn.lower() and "inf" not in drawn.lower()
    assert bool(drawn) is (not logarithmic or max(values) > 0)


def test_long_curves_are_thinned_and_keep_their_mean():
    values = [float(step % 7) for step in range(10_000)]
    drawn = str(chart("t", [Curve("c", "", list(enumerate(values)))]))
    assert len(drawn) < 40_000
    points = json.loads(re.search(r'json">(.*?)</script>', drawn)[1])["curves"][0]["points"]
    assert sum(y for _, y, _ in points) / len(points) == pytest.approx(3.0, abs=0.05)


# Time and memory


class Clock:
    """Shows what it is set to."""

    def __init__(self, now: float = 0.0) -> None:
        self.now = now

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("library.report.phases.time", clock)
    return clock


def test_time_inside_a_phase_inside_counts_once(clock):
    phases = Phases(torch.device("cpu"))
    phases.begin("outer")
    clock.now += 5
    phases.begin("inner")
    clock.now += 10
    phases.end()
    clock.now += 1
    phases.end()
    outer, inner = phases.measured()
    assert (outer.seconds, inner.seconds) == (6, 10)


def test_the_peak_of_a_phase_is_its_own():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells the peak of a part of a process")
    phases = Phases(torch.device("cpu"))
    phases.begin("large")
    large = torch.ones(100_000_000)
    phases.end()
    del large
    phases.begin("small")
    phases.end()
    large, small = phases.measured()
    assert large.peak_bytes - small.peak_bytes > 300_000_000


def test_phases_of_a_resumed_run_add_up(clock):
    phases = Phases(torch.device("cpu"), [{"name": "text", "seconds": 10.0, "peak_bytes": 2**60}])
    phases.begin("text")
    clock.now += 3
    phases.end()
    (text,) = phases.measured()
    assert text.seconds == 13 and text.peak_bytes == 2**60


# status.json and exit codes


def test_the_status_counts_the_time_left_over_both_stages(tmp_path):
    status = Status(tmp_path, "x", {"extractor": 10, "student": 30})
    status.step({"stage": "extractor", "step": 4, "loss": 1.0, "by_sigma": {}}, 0.5)
    read = read_status(tmp_path)
    assert (read["total_step"], read["total_steps"], read["seconds_left"]) == (4, 40, 18.0)
    assert read["steps_per_second"] == 2.0 and read["last"] == {"loss": 1.0} and read["exit_code"] is None


def test_the_status_is_json_even_if_a_loss_is_not_a_number(tmp_path):
    Status(tmp_path, "x", {"student": 3}).step({"stage": "student", "step": 1, "loss": float("nan")}, 1.0)
    assert json.loads((tmp_path / "status.json").read_text(), parse_constant=pytest.fail)["last"] == {}


def test_a_status_that_can_not_be_written_costs_nothing(tmp_path):
    write_text(tmp_path / "file", "")
    Status(tmp_path / "file", "x", {}).set(activity="text")


ENDS = [
    (ConfigError("what", "remedy"), EXIT_USER_ERROR, "failed"),
    (TrainingError("what"), EXIT_TRAINING_ERROR, "failed"),
    (Interrupted("what"), EXIT_INTERRUPTED, "stopped"),
    (KeyboardInterrupt(), EXIT_INTERRUPTED, "stopped"),
    (ZeroDivisionError("what"), EXIT_FAULT, "failed"),
    (None, 0, "done"),
]


@pytest.mark.parametrize(("error", "code", "state"), ENDS, ids=str)
def test_status_and_process_end_with_the_same_exit_code(tmp_path, capsys, error, code, state):
    def main():
        if error is not None:
            raise error

    assert exit_code_of(main, lambda: "log") == exit_code_for(error) == code
    status = Status(tmp_path, "x", {"student": 3})
    status.end(error)
    read = read_status(tmp_path)
    assert (read["exit_code"], read["state"]) == (code, state) and read["exit_reason"]


def test_a_run_that_fails_says_so_in_its_status_and_its_report(plan_of, monkeypatch):
    step = Stage.step

    def fails(self):
        if self.name == "student" and self.done == 1:
            raise TrainingError("the loss is nan, at step <2>.")
        return step(self)

    monkeypatch.setattr(Stage, "step", fails)
    run = Run(plan_of())
    with pytest.raises(TrainingError):
        run.train()
    status = read_status(run.folder)
    assert (status["state"], status["exit_code"], status["exit_reason"]) == (
        "failed",
        3,
        "the loss is nan, at step <2>.",
    )
    assert "at step &lt;2&gt;." in (run.folder / "report.html").read_text()


def test_a_report_that_can_not_be_made_does_not_cost_the_run(plan_of, capsys):
    run = Run(plan_of(extractor_train_steps=0, max_train_steps=1))
    run.looks.append(Adds(Section("bad", "Bad", lambda _: 1 / 0)))
    assert run.train()
    assert "WARNING: the report could not be written (ZeroDivisionError" in capsys.readouterr().err
