"""What the documentation names is there."""

import re
from pathlib import Path, PurePosixPath

import pytest

from tests.house.tree import ROOT, tracked_files

PAGES = [name for name in tracked_files() if name.suffix == ".md" and name.parts[0] == "docs"]
NAMED = re.compile(r"`([\w./-]+\.py)`")


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_python_file_that_a_page_names_exists(page: Path) -> None:
    files = {PurePosixPath(name.as_posix()) for name in tracked_files() if name.suffix == ".py"}
    missing = []
    for line in (ROOT / page).read_text("utf-8").splitlines():
        # A table's row names a folder once: what follows stands beside it.
        folder: PurePosixPath | None = None
        for text in NAMED.findall(line):
            named = PurePosixPath(text)
            beside = folder / named if folder is not None else named
            if named in files:
                folder = named.parent
            elif beside not in files and not any(each.match(text) for each in files):
                missing.append(text)
    assert missing == []


def test_pages_that_name_files_are_found() -> None:
    assert any(NAMED.search((ROOT / page).read_text("utf-8")) for page in PAGES)
