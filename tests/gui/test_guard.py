"""Access control: without permission, no route shows anything."""

import random
import re

import pytest
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from gui.app import make_app
from gui.guard import COOKIE, HEADERS, LARGEST_FORM, Access, access_of
from gui.pages import ROUTES
from gui.pages.result import REPORT_POLICY
from tests.helpers.window import SECRET, draw

TOKEN = "0123456789abcdef"


def addresses() -> list[tuple[str, str]]:
    """Every route with its method, made concrete."""
    found = []
    for route in ROUTES:
        if isinstance(route, Mount):
            found.append(("GET", f"{route.path}/window.css"))
            continue
        assert isinstance(route, Route)
        path = re.sub(
            r"\{(\w+)\}", lambda one: {"slug": "My-dog", "run": "001", "name": "0.png"}.get(one[1], "x"), route.path
        )
        found += [(method, path) for method in sorted(route.methods - {"HEAD"})]
    return found


@pytest.fixture
def stranger(root):
    """A browser on the network without the token."""
    app = make_app(root, Access(SECRET, TOKEN, frozenset({"localhost", "den.local"})))
    return TestClient(app, base_url="http://192.168.0.7:7870", follow_redirects=False)


@pytest.mark.parametrize(("method", "path"), addresses())
def test_without_the_token_no_route_answers(method, path, stranger, project):
    answer = stranger.request(method, path, headers={"X-PureCC-Secret": SECRET})
    assert answer.status_code == 401
    assert "My dog" not in answer.text and "creature" not in answer.text
    assert stranger.request(method, path, cookies={COOKIE: "wrong"}).status_code == 401


def test_the_token_of_the_address_becomes_a_cookie(stranger, project):
    answer = stranger.get(f"/p/My-dog?token={TOKEN}&side=96")
    assert answer.status_code == 303 and answer.headers["location"] == "/p/My-dog?side=96"
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert stranger.get("/p/My-dog").status_code == 200
    assert stranger.get("//evil.example/?token=" + TOKEN, cookies={COOKIE: ""}).headers.get("location", "/")[:2] != "//"


@pytest.mark.parametrize("method_and_path", [one for one in addresses() if one[0] == "POST"], ids=str)
def test_nothing_is_changed_by_a_page_that_is_not_ours(method_and_path, client, project):
    _, path = method_and_path
    before = sorted(str(one) for one in project.folder.parent.rglob("*"))
    for headers in (
        {"X-PureCC-Secret": ""},
        {"X-PureCC-Secret": "guessed"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        assert client.post(path, headers=headers).status_code == 403, headers
    assert sorted(str(one) for one in project.folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7870", "127.0.0.1.evil.example", "192.168.0.7", "", "[", "a@b"]
)
def test_a_name_that_does_not_mean_this_computer_is_refused(host, client):
    assert client.get("/", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:7870", "localhost:7870", "[::1]:7870"])
def test_this_computer_is_known(host, client):
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_with_a_token_numbers_and_own_names_are_known(stranger):
    for host, code in {"den.local:7870": 401, "10.0.0.3": 401, "evil.example": 421}.items():
        assert stranger.get("/", headers={"Host": host}).status_code == code


@pytest.mark.parametrize("path", ["/", "/nowhere", "/static/window.css", "/static/window.js", "/queue"])
def test_every_answer_keeps_the_network_out(path, client):
    answer = client.get(path)
    assert {name: answer.headers[name] for name in HEADERS} == dict(HEADERS)
    assert "http:" not in HEADERS["content-security-policy"] and "unsafe" not in HEADERS["content-security-policy"]


def test_pages_load_nothing_from_elsewhere(client, project, new_run):
    new_run({"total_steps": 4}, {})
    pages = ["/", "/queue", *(f"/p/My-dog{page}" for page in ("", "/captions", "/plan", "/settings", "/training"))]
    for page in pages:
        text = client.get(page).text
        assert not re.findall(r"""(?:src|hx-\w+|action)=["'](?:https?:)?//""", text), page
        assert not re.findall(r"<(?:script|style)>|\son\w+=|\sstyle=|javascript:", text), page
        outward = re.findall(r'<a href="https?:[^>]*>', text)
        assert all("noreferrer" in link for link in outward)


def test_a_report_is_locked_in(client, project, new_run):
    run = new_run({"state": "done"}, {})
    (run.folder / "report.html").write_text("<script>parent.document.body.dataset.secret</script>")
    answer = client.get("/p/My-dog/runs/001/report")
    assert answer.headers["content-security-policy"] == REPORT_POLICY
    assert "sandbox allow-scripts" in REPORT_POLICY and "allow-same-origin" not in REPORT_POLICY


def test_too_large_a_form_is_refused_whatever_it_says_of_its_size(client, project):
    large = b"name=" + b"a" * (LARGEST_FORM + 1)
    kind = {"content-type": "application/x-www-form-urlencoded"}
    assert client.post("/projects", content=large, headers=kind).status_code == 413

    def in_parts():
        for begin in range(0, len(large), 1 << 16):
            yield large[begin : begin + (1 << 16)]

    assert client.post("/projects", content=in_parts(), headers=kind).status_code == 413
    assert [one.name for one in project.folder.parent.iterdir()] == ["My-dog"]


def test_secret_and_token_last_and_are_nobody_elses(tmp_path):
    first, again, other = (
        access_of(tmp_path / "a", True),
        access_of(tmp_path / "a", True),
        access_of(tmp_path / "b", True),
    )
    assert first == again != other and first.secret != first.token and len(first.token) == 32
    assert access_of(tmp_path / "a", False).token is None
    assert (tmp_path / "a" / ".secret").stat().st_mode & 0o077 == 0


NAMES = [
    "..",
    ".",
    "",
    "...",
    "../My-dog",
    "..%2f..%2fetc",
    "%2e%2e",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "a%00b",
    "C:%5Cboot.ini",
]
NAMES += [
    "..%5C..%5Cetc",
    "con",
    "project.toml",
    ".secret",
    "~",
    "%ff",
    "%ed%a0%80",
    "a" * 5000,
    "<script>",
    "{{7*7}}",
    "\u202e",
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_the_projects(name, client, project, root):
    (root.parent / "secret.txt").write_text("buried treasure")
    for path in (
        f"/p/{name}", f"/p/My-dog/pictures/{name}", f"/p/My-dog/captions/of/{name}", f"/p/My-dog/runs/{name}",
        f"/p/My-dog/runs/{name}/report", f"/static/{name}",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status_code in (200, 307, 400, 404, 405, 422), path
        assert "treasure" not in answer.text and "root:" not in answer.text
        if answer.status_code == 200:  # a page, reached because ".." was removed from the address
            assert answer.url.path != path or name in (".", "")


def test_links_lead_nowhere(client, project, root, new_run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    draw(outside / "private.png")
    (outside / "project.toml").write_text('name = "private"\n')
    (project.pictures / "link.png").symlink_to(outside / "private.png")
    (root / "elsewhere").symlink_to(outside)
    run = new_run({"state": "done"}, {})
    (run.folder / "samples").symlink_to(outside)
    (run.folder / "report.html").symlink_to(outside / "project.toml")
    for path in (
        "/p/My-dog/pictures/link.png", "/p/elsewhere", "/p/My-dog/runs/001/samples/private.png",
        "/p/My-dog/runs/001/report", "/p/My-dog/runs/001/files/launch.json.png",
    ):  # fmt: skip
        assert client.get(path).status_code == 404, path
    assert "private" not in client.get("/").text


@pytest.mark.parametrize("seed", range(4))
def test_random_requests_are_answered_in_a_sentence(seed, client, project, new_run, monkeypatch):
    """No request causes an internal error, and none starts a process."""
    monkeypatch.setattr("subprocess.Popen", lambda *words, **more: pytest.fail(f"started {words}"))
    new_run({"state": "done", "total_steps": None, "phases": "odd"}, {})
    chance, pieces = (
        random.Random(seed),
        [*NAMES[3:12], "My-dog", "001", "p", "runs", "pictures", "captions", "x", "🐕"],
    )
    for _ in range(120):
        path = "/" + "/".join(chance.choices(pieces, k=chance.randint(1, 6)))
        fields = {
            chance.choice(["name", "kind", "text", "value", "clock", "run"]): chance.choice(NAMES[2:]) for _ in range(3)
        }
        sent = chance.choice(
            [{}, {"data": fields}, {"content": b"\xff\x00--"}, {"files": {"picture": ("../../a.png", b"x")}}]
        )
        answer = client.request(chance.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS"]), path, **sent)
        assert answer.status_code < 500, (path, answer.text[:200])


def test_a_fault_of_ours_is_a_sentence_and_shows_nothing_of_the_inside(root, project, monkeypatch):
    monkeypatch.setattr("gui.captions.captions_of", lambda project: 1 / 0)
    app = make_app(root, Access(SECRET))
    client = TestClient(app, base_url="http://127.0.0.1:7870", raise_server_exceptions=False)
    answer = client.get("/p/My-dog/captions")
    assert answer.status_code == 500 and "bug in the window" in answer.text and "division" not in answer.text
    assert HEADERS.items() <= answer.headers.items()
