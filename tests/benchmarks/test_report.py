import json

from benchmarks.speed.goals import Goal
from benchmarks.speed.report import Report, Table


def test_a_report_is_written_whole(tmp_path):
    row = {"a": 1234567, "b": 0.12345, "c": None, "d": True, "hidden": {"x": 1}, "e": 12345.6}
    columns = {key: f"head {key}" for key in "abcde"}
    report = Report("name", "A title", "a machine", [Table("Things", [row], columns)])
    report.goals.append(Goal("fast", 1.0, 2.0))
    report.notes.append("a note")
    report.wrong.append("something")
    report.draw = lambda path: path.write_bytes(b"png")
    report.save(str(tmp_path / "new"))
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "name.json",
        "name.md",
        "name.png",
    ]
    found = json.loads((tmp_path / "new" / "name.json").read_text())
    assert found["tables"][0]["rows"] == [row]
    assert found["goals"][0]["met"] is False
    text = (tmp_path / "new" / "name.md").read_text()
    assert "| head a | head b | head c | head d | head e |" in text
    assert "| 1,234,567 | 0.123 | - | yes | 12,346 |" in text
    assert "| fast | at most 1 | 2 | **no** | +100% |" in text
    assert "- **Wrong: something**\n- a note" in text


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Report("name", "A title", "a machine").save(None)
    assert list(tmp_path.iterdir()) == []
