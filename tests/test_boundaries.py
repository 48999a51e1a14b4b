"""Who may import whom, read from the source without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# the only modules of `compress` that `serve` may import; their own imports stay among themselves
_OPEN = (
    "attention",
    "audio",
    "checkpoint",
    "checks",
    "decoding",
    "doctor",
    "errors",
    "key_values",
    "prompt",
    "reading",
    "weights.architectures",
    "weights.compressed_tensors",
    "weights.entries",
    "weights.key_layout",
    "weights.schemes",
    "weights.size",
)
SEAM = {f"compress.{name}" for name in _OPEN}


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no source files"
    return found


def imports(path: Path) -> Iterator[str]:
    """Every dotted name that a file imports, `from a import b` counted as `a.b`, wherever in the file it is."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(paths: list[Path], *tops: str) -> set[tuple[str, str]]:
    """(file, imported name) of each import whose top-level package is one of `tops`."""
    return {
        (path.relative_to(ROOT).as_posix(), name)
        for path in paths
        for name in imports(path)
        if name.split(".")[0] in tops
    }


def in_seam(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in SEAM)


def test_compress_never_imports_serve() -> None:
    assert not offenders(sources("compress"), "serve")


@pytest.mark.parametrize("package", ["compress", "serve"])
def test_shipped_code_never_imports_the_checkout(package: str) -> None:
    assert not offenders(sources(package), "benchmarks", "tests")


def test_serve_imports_only_the_seam_of_compress() -> None:
    found = offenders(sources("serve"), "compress")
    assert not {(path, name) for path, name in found if not in_seam(name) and name != "compress.__version__"}


def test_the_seam_imports_nothing_else_of_compress() -> None:
    places = [ROOT / module.replace(".", "/") for module in sorted(SEAM)]
    modules = [
        file for place in places for file in (place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")])
    ]
    assert not {(path, name) for path, name in offenders(modules, "compress") if not in_seam(name)}


def test_only_the_vllm_files_import_vllm() -> None:
    everywhere = [path for package in ("benchmarks", "compress", "serve", "tests") for path in sources(package)]
    elsewhere = [
        path
        for path in everywhere
        if not (path.parent.name == "engines" and path.name.removeprefix("test_").startswith("vllm_"))
    ]
    assert not offenders(elsewhere, "vllm")


def test_serve_works_without_ray() -> None:
    elsewhere = [path for path in sources("serve") if path.name != "ray_serve.py"]
    assert not offenders(elsewhere, "ray", "click")
    assert not {(path, name) for path in elsewhere for name in imports(path) if name.startswith("serve.deploy.")}


def test_every_folder_of_tests_is_a_package() -> None:
    # without it, tests/compress would shadow the package that it tests
    assert not {path.parent for path in sources("tests") if not (path.parent / "__init__.py").exists()}
