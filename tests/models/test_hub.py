"""Models by their name on huggingface.co, with a small local server; nothing leaves the machine."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from library.config.groups import groups
from library.errors import ModelError
from library.models.loading.model_files import FolderFiles
from library.models.opening import open_model_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import sys
from library.config.groups import groups
from library.errors import PureCCError
from library.models.opening import open_model_files

for words in (word.split() for word in sys.argv[1:]):
    try:
        files = open_model_files(groups()["model"](pretrained_model_name_or_path=words[0], offline="offline" in words))
        print(files.weights("vae").fingerprint() if "weights" in words else files.config("vae")["_class_name"])
    except PureCCError as error:
        print(str(error).replace(chr(10), " | "))
"""


class Hub(BaseHTTPRequestHandler):
    """Serves the folder of one repository like the hub; `asked` collects what was downloaded."""

    folder: Path
    asked: list[str]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = self.path.split("?")[0]
        if not (path.startswith("/api/models/some/tiny") or path.startswith("/some/tiny/resolve/")):
            return self.answer(401, {"X-Error-Code": "GatedRepo" if "gated" in path else "RepoNotFound"}, b"{}")
        names = sorted(str(file.relative_to(self.folder)) for file in self.folder.rglob("*") if file.is_file())
        if "/tree/" in path:
            rows = [{"type": "file", "path": name, "size": 1, "oid": self.etag(name)} for name in names]
            return self.answer(200, {}, json.dumps(rows).encode())
        if path.startswith("/api/"):
            about = {"id": "some/tiny", "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
            return self.answer(200, {}, json.dumps(about).encode())
        name = path.split("/resolve/")[1].split("/", 1)[1]
        if self.command == "GET":
            self.asked.append(name)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{self.etag(name)}"'}
        return self.answer(200, headers, (self.folder / name).read_bytes())

    def etag(self, name):
        return hashlib.sha1((self.folder / name).read_bytes()).hexdigest()

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(tiny_model):
    Hub.folder, Hub.asked = tiny_model, []
    for name in ("pickled.bin", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors"):
        (tiny_model / name).write_bytes(b"never to be asked for")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    for name in ("pickled.bin", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.fp16.safetensors"):
        (tiny_model / name).unlink()


def open_there(server, home, *wanted):
    """The result of opening each of these, one line each, in a separate process."""
    environment = {**os.environ, "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home)}
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1"}
    run = [sys.executable, "-c", PROGRAM, *wanted]
    return subprocess.run(run, env=environment, capture_output=True, text=True, check=False).stdout


def test_a_model_is_downloaded_part_by_part_and_found_again_offline(hub, tiny_model, tmp_path):
    wanted = ["some/tiny", "some/tiny offline weights", "some/tiny weights", "some/tiny offline weights"]
    small, missing, loaded, again = open_there(hub, tmp_path, *wanted).splitlines()
    assert small == "AutoencoderKL"
    assert "the run is offline" in missing
    assert loaded == again == FolderFiles(tiny_model).weights("vae").fingerprint()
    others = [name for name in Hub.asked if not name.endswith(("json", "txt"))]
    assert others == ["vae/diffusion_pytorch_model.safetensors"]


def test_a_gated_a_missing_and_an_unreachable_model_are_one_sentence_each(hub, tmp_path):
    gated, missing = open_there(hub, tmp_path, "some/gated", "some/nothing").splitlines()
    assert "accept its licence" in gated and "hf auth login" in gated
    assert "not a file or folder" in missing
    hub.server_close()
    unreachable = open_there(hub, tmp_path, "some/tiny")
    assert "can't be reached" in unreachable and "offline = true" in unreachable


FAILURES = {
    "can't be reached: no route": ConnectionError("no route"),
    "No space left": OSError(28, "No space left on device"),
}


@pytest.mark.parametrize("said", FAILURES)
def test_what_stops_a_download_is_one_sentence(said, monkeypatch):
    def fail(*arguments, **options):
        raise FAILURES[said]

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=said):
        open_model_files(groups()["model"](pretrained_model_name_or_path="some/model"))


def test_offline_asks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="has not been downloaded completely"):
        open_model_files(groups()["model"](pretrained_model_name_or_path="some/model", offline=True))


@pytest.mark.parametrize(
    "name", ["nowhere", "./a/none", "a/none.safetensors", "/a/sd35", "models/stable-diffusion-3.5-medium", "tests/none"]
)
def test_what_can_be_no_model_on_the_hub_is_a_file_or_folder_that_is_not_there(name):
    with pytest.raises(ModelError, match="the file or folder"):
        open_model_files(groups()["model"](pretrained_model_name_or_path=name))
