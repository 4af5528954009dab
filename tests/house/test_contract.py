"""The code generated from protos/ and the release images of the contract."""

import subprocess
from pathlib import Path

import pytest

from tools import protos


def test_the_generated_code_is_what_the_protos_generate() -> None:
    assert protos.differences() == []


def test_generating_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
    files = protos.generate(first)
    assert files == protos.generate(second) != []
    assert [name for name in files if (first / name).read_bytes() != (second / name).read_bytes()] == []


def test_only_files_with_a_service_get_stubs(tmp_path: Path) -> None:
    with_stubs = {str(name) for name in protos.generate(tmp_path) if name.name.endswith("_pb2_grpc.py")}
    with_service = {
        str(path.relative_to(protos.PROTOS).with_suffix("")) + "_pb2_grpc.py"
        for path in protos.PROTOS.rglob("*_service.proto")
    }
    assert with_stubs == with_service != set()


def test_a_proto_that_does_not_compile_is_reported_with_its_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken.proto").write_text('syntax = "proto3";\nmessage {', encoding="utf-8")
    monkeypatch.setattr(protos, "PROTOS", tmp_path)
    into = tmp_path / "out"
    into.mkdir()
    with pytest.raises(protos.GenerationError, match=r"broken\.proto:2"):
        protos.generate(into)


def test_a_released_image_is_never_written_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(protos, "RELEASED", tmp_path)
    (tmp_path / "1.2.3.binpb").touch()
    monkeypatch.setattr(protos, "ROOT", tmp_path)
    with pytest.raises(protos.GenerationError, match="does not change"):
        protos.release("1.2.3")


def test_a_release_needs_a_version() -> None:
    with pytest.raises(protos.GenerationError, match="not a version"):
        protos.release("../x")


def test_the_newest_image_is_chosen_by_version_not_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(protos, "RELEASED", tmp_path)
    assert protos.latest_release() is None
    for name in ("0.2.0", "0.10.0", "0.9.9", "draft"):
        (tmp_path / f"{name}.binpb").touch()
    newest = protos.latest_release()
    assert newest is not None
    assert newest.name == "0.10.0.binpb"


def test_taking_a_field_away_breaks_the_promise_of_a_release(tmp_path: Path) -> None:
    (tmp_path / "buf.yaml").write_text("version: v2\n", encoding="utf-8")
    proto = tmp_path / "a.proto"
    proto.write_text('syntax = "proto3";\npackage a.v1;\nmessage A {\n  string b = 1;\n}\n', encoding="utf-8")
    buf = str(protos.script("buf"))
    subprocess.run([buf, "build", "--exclude-source-info", "-o", "old.binpb"], cwd=tmp_path, check=True)
    against = [buf, "breaking", "--against", "old.binpb"]
    assert subprocess.run(against, cwd=tmp_path, check=False).returncode == 0
    proto.write_text('syntax = "proto3";\npackage a.v1;\nmessage A {}\n', encoding="utf-8")
    done = subprocess.run(against, cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode != 0
    assert 'field "1"' in done.stdout
