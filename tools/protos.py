"""Generate the Python code of the contract, or tell whether what lies in the tree is fresh.

- `./dev protos` writes interlock/*/v1 from protos/
- `./dev protos --check` changes nothing, names every file that differs, and exits with 1 if there is one
- `./dev protos release V` writes protos/released/V.binpb, by which breaking changes are judged
"""

import argparse
import re
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
RELEASED = PROTOS / "released"
GENERATED_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")
_SERVICE = re.compile(r"^service\s", re.MULTILINE)
_VERSION = re.compile(r"\d+\.\d+\.\d+")


class GenerationError(Exception):
    """A tool that generates code failed; its own output says why."""


def generate(into: Path) -> list[Path]:
    """Generate everything below `into` and return the files written, relative to it, sorted."""
    protos = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    _protoc(protos, f"--python_out={into}", f"--mypy_out={into}")
    # Files without a service are left out here: their *_pb2_grpc.py would hold nothing.
    if services := [proto for proto in protos if _SERVICE.search((PROTOS / proto).read_text("utf-8"))]:
        _protoc(services, f"--grpc_python_out={into}", f"--mypy_grpc_out={into}")
    for package in _packages(protos):
        _write_package_docstring(into / package, package)
    return sorted(path.relative_to(into) for path in into.rglob("*") if path.is_file())


def write() -> int:
    """Bring the generated code in the tree up to date; return how many files changed."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        files = generate(fresh)
        stale = [path for path in files if _differs(fresh / path, ROOT / path)]
        for path in stale:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_bytes((fresh / path).read_bytes())
    orphans = list(_orphans(files))
    for path in orphans:
        (ROOT / path).unlink()
    return len(stale) + len(orphans)


def differences() -> list[str]:
    """Say for every generated file that is missing, stale or left over what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        files = generate(fresh)
        stale = [path for path in files if _differs(fresh / path, ROOT / path)]
    wrong = [f"{path}: not what protos/ generates" for path in stale]
    return wrong + [f"{path}: no proto generates it" for path in _orphans(files)]


def release(version: str) -> Path:
    """Write the image of the contract as `version` publishes it.

    A released image is never written twice: the promise it stands for has been made.
    """
    if not _VERSION.fullmatch(version):
        raise GenerationError(f"{version!r} is not a version such as 0.1.0")
    image = RELEASED / f"{version}.binpb"
    if image.exists():
        raise GenerationError(f"{image.relative_to(ROOT)} exists; a released contract does not change")
    RELEASED.mkdir(parents=True, exist_ok=True)
    # Comments and positions are no part of the promise, and would make every image differ.
    _run([str(script("buf")), "build", "--exclude-source-info", "-o", str(image)])
    return image


def latest_release() -> Path | None:
    """Return the newest released image, or None before the first release."""
    images = [path for path in RELEASED.glob("*.binpb") if _VERSION.fullmatch(path.stem)]
    return max(images, key=lambda path: tuple(map(int, path.stem.split("."))), default=None)


def _protoc(protos: Sequence[str], *outputs: str) -> None:
    well_known = resources.files("grpc_tools") / "_proto"
    _run(
        [
            sys.executable,
            *("-W", "ignore", "-m", "grpc_tools.protoc"),
            f"-I{PROTOS}",
            f"-I{well_known}",
            f"--plugin=protoc-gen-mypy={script('protoc-gen-mypy')}",
            f"--plugin=protoc-gen-mypy_grpc={script('protoc-gen-mypy_grpc')}",
            *outputs,
            *protos,
        ]
    )


def script(name: str) -> Path:
    """The program beside this interpreter: its namesake elsewhere on PATH must not change the output."""
    return Path(sysconfig.get_path("scripts")) / name


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    if done.returncode != 0:
        raise GenerationError((done.stderr or done.stdout).strip())


def _packages(protos: Sequence[str]) -> list[Path]:
    """Every folder that holds generated code; the packages above them are written by hand."""
    return sorted({Path(proto).parent for proto in protos})


def _write_package_docstring(folder: Path, package: Path) -> None:
    dotted = ".".join(package.parts)
    folder.mkdir(parents=True, exist_ok=True)
    text = f'"""The contract package `{dotted}`, generated from protos/; never edited."""\n'
    (folder / "__init__.py").write_text(text, encoding="utf-8")


def _orphans(files: Sequence[Path]) -> Iterator[Path]:
    known = set(files)
    for path in sorted((ROOT / "interlock").rglob("*_pb2*.py*")):
        relative = path.relative_to(ROOT)
        if relative.name.endswith(GENERATED_SUFFIXES) and relative not in known:
            yield relative


def _differs(fresh: Path, present: Path) -> bool:
    return not present.exists() or fresh.read_bytes() != present.read_bytes()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = argparse.ArgumentParser(prog="./dev protos", description="Generate the contract's code.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail unless all is fresh")
    commands = parser.add_subparsers(dest="command")
    commands.add_parser("release", help="write a release image").add_argument("version")
    commands.add_parser("latest", help="print the newest release image, if any")
    options = parser.parse_args(arguments)
    try:
        return _perform(options)
    except GenerationError as error:
        print(error, file=sys.stderr)
        return 1


def _perform(options: argparse.Namespace) -> int:
    if options.command == "release":
        print(release(options.version).relative_to(ROOT))
        return 0
    if options.command == "latest":
        if image := latest_release():
            print(image.relative_to(ROOT))
        return 0
    if options.check:
        for difference in (found := differences()):
            print(difference)
        if found:
            print("run ./dev protos", file=sys.stderr)
        return 1 if found else 0
    print(f"{write()} generated files changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
