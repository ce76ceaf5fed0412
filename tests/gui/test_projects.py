"""Projects, pictures and captions: what a person does before training, and what can go wrong with it."""

import errno
import json
from io import BytesIO
from urllib.parse import unquote

import pytest
from PIL import Image

from gui import pictures, projects
from gui.captions import captions_of
from library.captions.facts import Facts, question_for
from library.captions.record import Record
from library.data.images import image_size
from library.files.fingerprint import of_bytes
from tests.helpers.window import draw, until
from tools.pocket.pen import SIDE


def png(size: tuple[int, int] = (40, 30), **how) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, (200, 30, 90)).save(file, "PNG", **how)
    return file.getvalue()


def send(client, name: str, content: bytes):
    return client.post("/p/My-dog/pictures", files={"picture": (name, content, "image/png")})


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Mein Bär", "Mein-Bär"),
        ("L'été à Orléans", "L-été-à-Orléans"),
        ("../../etc", "etc"),
        ("con", "project-con"),
        ("🐕", "project"),
        ("Орёл 鷲", "Орёл-鷲"),
        ("a" * 300, "a" * 60),
        ("x<script>", "x-script"),
    ],
)
def test_any_name_makes_a_project(name, slug, client, root):
    answer = client.post("/projects", data={"name": name})
    assert unquote(answer.headers["hx-redirect"]) == f"/p/{slug}"
    assert (root / slug / "project.toml").is_file()
    page = client.get(f"/p/{slug}").text
    assert "<script>" not in page.replace("<script src=", "")
    assert client.get("/").status_code == 200


def test_two_projects_of_one_name_are_next_to_each_other(root):
    assert [projects.create(root, name).slug for name in ("Dog", "dog", "Dog")] == ["Dog", "dog-2", "Dog-3"]


def test_every_change_is_in_the_folder_at_once(client, project, root):
    client.post("/p/My-dog/about", data={"kind": "style", "trigger": "zwx", "class_word": "", "folder": "/etc"})
    found = projects.load(root, "My-dog")
    assert (found.kind, found.trigger, found.folder) == ("style", "zwx", root / "My-dog")
    assert client.post("/p/My-dog/about", data={"kind": "bomb"}).status_code == 422
    assert projects.load(root, "My-dog") == found


def test_doubts_about_a_trigger_are_reported(client, project, root):
    said = client.post("/p/My-dog/about", data={"trigger": "creature"}).text
    assert "Choose a rare word" in said
    client.post("/p/My-dog/plan", data={"model": "sd35"})
    assert "already knows the word “horse”" in client.post("/p/My-dog/about", data={"trigger": "horse"}).text
    assert "warning" not in client.post("/p/My-dog/about", data={"trigger": "ohwx"}).text


def test_pictures_come_in_under_names_of_their_own(client, project):
    names = {
        "../../../etc/passwd.png": "passwd.png",
        "C:\\Users\\me\\Bild ä.PNG": "Bild ä.png",
        "<img src=x onerror=alert(1)>.png": "img src=x onerror=alert(1).png",
        ".hidden.png": "hidden.png",
        "con.png": "picture_con.png",
        "0.webp": "0_2.webp",
    }
    for name, kept in names.items():
        answer = send(client, name, png())
        assert (answer.status_code, answer.text) == (201, kept)
        assert client.get(f"/p/My-dog/pictures/{kept}").headers["content-type"] == "image/jpeg"
    assert {path.parent for path in project.folder.parent.rglob("*passwd*.png")} == {project.pictures}
    assert "<img src=x" not in client.get("/p/My-dog").text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"hello", "as a picture"),
        ("a.svg", b"<svg onload='x'/>", "as a picture"),
        ("a.html", b"<script>", "as a picture"),
        ("a.png", b"<html><script>", "web page"),
        ("a.jpg", b"", "empty"),
        ("a.png", png((600, 600))[:-40], "cut off"),
        ("a.heic", b"\0\0\0\x18ftypheic", "pip install pillow-heif"),
        ("noending", png(), "as a picture"),
    ],
)
def test_what_is_not_a_picture_is_refused_in_a_sentence(name, content, said, client, project):
    before = sorted(project.pictures.iterdir())
    answer = send(client, name, content)
    assert answer.status_code == 422 and said in answer.text and name in answer.text
    assert str(project.folder) not in answer.text
    assert sorted(project.pictures.iterdir()) == before


def test_too_large_a_picture_is_refused(client, project, monkeypatch):
    monkeypatch.setattr(pictures, "LARGEST", 50)
    assert "is larger than" in send(client, "big.png", png()).text
    assert not (project.pictures / "big.png").exists()


def test_a_picture_of_fifty_megapixels_is_shown_small(client, project):
    Image.new("L", (8660, 5774), 90).save(project.pictures / "large.jpg")
    answer = client.get("/p/My-dog/pictures/large.jpg?side=320")
    assert Image.open(BytesIO(answer.content)).size == (320, 213)
    assert client.get("/p/My-dog/pictures/large.jpg?side=99999").content == answer.content


def test_three_hundred_pictures_have_a_page(client, project):
    for number in range(300):
        draw(project.pictures / f"p{number:03d}.png", number, (16, 16))
    assert client.get("/p/My-dog/captions").text.count("<textarea") == 303
    assert client.get("/p/My-dog").text.count("<li>") == 303
    assert client.get("/p/My-dog/pictures/p299.png?side=96").status_code == 200


def test_many_pictures_are_said_to_be_many(client, project):
    for number in range(8):
        draw(project.pictures / f"p{number}.png", number)
    assert "11 pictures: 3 to 10" in client.get("/p/My-dog/notes").text


def test_the_doctor_speaks_under_each_picture(client, project):
    draw(project.pictures / "9.png", 9, (20, 20))
    (project.pictures / "copy.png").write_bytes((project.pictures / "1.png").read_bytes())
    (project.pictures / "broken.png").write_bytes(b"no picture")
    parts = client.get("/p/My-dog/notes").text.split("<div id=")
    said = dict(zip(sorted(path.name for path in pictures.pictures_of(project)), parts[1:], strict=True))
    assert "Small" in said["9.png"] and "The same file as 1.png" in said["copy.png"]
    assert "Can&#39;t be read" in said["broken.png"] and "warning" not in said["0.png"]


def test_a_removed_picture_can_be_taken_back(client, project):
    client.get("/p/My-dog/pictures/1.png")
    client.post("/p/My-dog/pictures/1.png/remove")
    assert sorted(path.name for path in (project.folder / "removed").iterdir()) == ["1.png", "1.txt"]
    assert client.get("/p/My-dog/pictures/1.png").status_code == 404
    assert not list((project.folder / "small").glob("1.png*"))
    assert client.post("/p/My-dog/pictures/1.txt/remove").status_code == 404


def test_a_caption_shows_what_becomes_of_it(client, project):
    shown = client.post("/p/My-dog/captions/of/1.png", data={"text": "a [V] creature <b>on</b> the beach"}).text
    assert 'a <span class="chip">sks</span> creature &lt;b&gt;on&lt;/b&gt; the beach' in shown
    assert "a creature &lt;b&gt;on" in shown and "of 16 tokens" in shown
    assert (project.pictures / "1.txt").read_text() == "a [V] creature <b>on</b> the beach\n"
    long = client.post("/p/My-dog/captions/of/1.png", data={"text": "a [V] creature " + "on the beach " * 9}).text
    assert "cut off" in long
    wrong = client.post("/p/My-dog/captions/of/1.png", data={"text": "a house by the sea"}).text
    assert "neither [V] nor the class word" in wrong
    assert client.get("/p/My-dog/captions").text.count("a house by the sea") >= 1


def test_captions_can_be_filled_replaced_and_undone(client, project):
    before = [one.text for one in captions_of(project)]
    (project.pictures / "1.txt").unlink()
    client.post("/p/My-dog/captions/fill")
    client.post("/p/My-dog/captions/replace", data={"find": "city", "by": "forest"})
    texts = [one.text for one in captions_of(project)]
    assert texts == ["a [V] creature in the forest 0", "a [V] creature", "a [V] creature in the forest 2"]
    assert client.post("/p/My-dog/captions/replace", data={"find": "castle", "by": ""}).status_code == 422
    client.post("/p/My-dog/captions/undo")
    client.post("/p/My-dog/captions/undo")
    assert [one.text for one in captions_of(project)] == [before[0], "", before[2]]
    assert client.post("/p/My-dog/captions/undo").status_code == 204


def test_a_text_that_is_being_written_is_one_change(client, project):
    for text in ("a [V] creature b", "a [V] creature be", "a [V] creature beach"):
        client.post("/p/My-dog/captions/of/1.png", data={"text": text})
    client.post("/p/My-dog/captions/undo")
    assert (project.pictures / "1.txt").read_text() == "a [V] creature in the city 1\n"


def test_words_of_every_caption_are_named(client, project):
    assert "captions/findings" in client.get("/p/My-dog/captions").text
    assert "Every caption of My-dog contains &#34;city&#34;" in client.get("/p/My-dog/captions/findings").text
    answer = client.post("/p/My-dog/captions/of/0.png", data={"text": "a [V] creature by the sea"})
    assert answer.headers["hx-trigger"] == "captions-changed"  # by which the page reads them again
    assert "city" not in client.get("/p/My-dog/captions/findings").text


def test_what_all_pictures_show_and_no_caption_names_is_reported(client, project):
    """A model has looked at them before: its facts are next to the pictures, and no model is asked again."""
    record, concept = Record(project.pictures), project.concept()
    for path in pictures.pictures_of(project):
        seen = Facts(place=f"in the city {path.stem}", others=("a <red> lamp",))
        record.keep_facts(path, of_bytes(path.read_bytes()), question_for(concept), "a model", seen)
    said = client.get("/p/My-dog/captions/findings").text
    assert "All images show &#34;lamp&#34;, &#34;red&#34;" in said and "<red>" not in said
    client.post("/p/My-dog/captions/of/0.png", data={"text": "a [V] creature in the city 0, a red lamp"})
    assert "All images show" not in client.get("/p/My-dog/captions/findings").text
    client.post("/p/My-dog/captions/undo")
    draw(project.pictures / "1.png", 77)  # another picture, which no model has seen
    assert "All images show" not in client.get("/p/My-dog/captions/findings").text


def test_captions_of_an_unfinished_project_have_no_findings(client, root):
    projects.create(root, "Cat")
    assert client.get("/p/Cat/captions/findings").text.strip() == ""


def test_a_full_disk_is_a_sentence_and_nothing_is_lost(client, project, monkeypatch):
    def full(**where):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("library.files.atomic.tempfile.mkstemp", full)
    for answer in (
        client.post("/p/My-dog/about", data={"trigger": "other"}),
        client.post("/p/My-dog/captions/of/1.png", data={"text": "a [V] creature"}),
        send(client, "new.png", png()),
        client.post("/p/My-dog/start"),
        client.post("/projects", data={"name": "Cat"}),
    ):
        assert answer.status_code == 507 and "the disk is full" in answer.text
    monkeypatch.undo()
    assert projects.load(project.folder.parent, "My-dog") == project
    assert [one.name for one in project.folder.parent.iterdir() if one.is_dir()] == ["My-dog"]
    assert (project.pictures / "1.txt").read_text() == "a [V] creature in the city 1\n"


def test_a_damaged_project_says_so_and_hides_no_other(client, project, root):
    projects.create(root, "Cat")
    (project.folder / "project.toml").write_text("name = [")
    answer = client.get("/p/My-dog")
    assert answer.status_code == 422 and "project.toml" in answer.text
    assert "Cat" in client.get("/").text


def test_a_project_that_is_removed_can_be_taken_back(client, project, root):
    assert client.post("/p/My-dog/remove").headers["hx-redirect"] == "/"
    assert (root / "removed" / "My-dog" / "pictures" / "0.png").is_file()


def test_the_practice_model_is_one_click(client, root):
    address = client.post("/practice").headers["hx-redirect"]
    assert address == "/p/Practice-creature/plan" and client.get(address).status_code == 200
    found = captions_of(projects.load(root, "Practice-creature"))
    assert len(found) == 5 and all(one.triple and image_size(one.picture) == (SIDE, SIDE) for one in found)


def test_captions_by_a_model_are_offered_where_the_command_is(client, project, tmp_path, monkeypatch):
    command = tmp_path / "purecc_caption.py"
    monkeypatch.setattr("gui.describing.CAPTION", command)
    assert "Describe my pictures" not in client.get("/p/My-dog/captions").text
    assert client.post("/p/My-dog/captions/describe").status_code == 422
    command.write_text("import json, sys\nopen(sys.argv[1] + '/said.json', 'w').write(json.dumps(sys.argv[2:]))\n")
    assert "Describe my pictures" in client.get("/p/My-dog/captions").text
    client.post("/p/My-dog/captions/describe")
    said = until(lambda: (project.pictures / "said.json").exists() and (project.pictures / "said.json").read_text())
    assert json.loads(said) == ["--kind", "subject", "--trigger=sks", "--class_word=creature"]
    until(lambda: client.get("/p/My-dog/captions/progress").headers.get("hx-refresh"))
