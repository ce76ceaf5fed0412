"""Fingerprints of runs show what has changed."""

from tools.golden import CASES, Case, compared, fingerprints_of


def test_a_fingerprint_says_what_has_changed(tmp_path, monkeypatch):
    lora = CASES["lora"]
    monkeypatch.setitem(CASES, "other", Case({**lora.settings, "seed": 43}, lora.preset))
    made = fingerprints_of(["lora", "other"], tmp_path, lambda name: None)
    one, other = ({**made, "runs": {"lora": made["runs"][name]}} for name in ("lora", "other"))
    assert set(one["runs"]["lora"]["files"]) == {"tiny.safetensors", "tiny_diffusers.safetensors"}
    assert compared(one, one) == []
    said = compared(one, other)
    assert said[0].startswith("lora: steps[0] loss: ") and " became " in said[0]
    (line,) = compared(one, {**one, "made on": {"torch": "9.9"}})
    assert "9.9" in line


def test_a_run_that_is_gone_is_reported():
    before = {"made on": {}, "runs": {"a": {"steps": []}, "b": {"steps": []}}}
    assert compared(before, {"made on": {}, "runs": {"b": {"steps": []}}}) == ['a: all: {"steps": []} became null']
