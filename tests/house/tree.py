"""Where this house stands and what git keeps of it."""

import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"


def project() -> dict[str, Any]:
    """pyproject.toml, parsed."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def tracked_files() -> list[Path]:
    """Every file that git tracks and that is there, relative to the root."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells which files belong to the product")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    names = [Path(name) for name in listed.stdout.split("\0") if name]
    return [name for name in names if (ROOT / name).is_file()]


def packages() -> list[str]:
    """Every top-level package that ships."""
    shipped: list[str] = project()["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return shipped
