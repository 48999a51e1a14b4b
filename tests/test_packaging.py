"""What is shipped, what is locked, and what may be named in the repository."""

import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from compress import __version__

ROOT = Path(__file__).parents[1]
SHIPPED = ("compress", "serve")

# spelt in pieces, so that this file passes its own test
REGISTRY_HOSTS = [
    ".".join(labels)
    for labels in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("download", "pytorch", "org"),
        ("conda", "anaconda", "org"),
        ("deb", "debian", "org"),
        ("registry", "npmjs", "org"),
        ("index", "crates", "io"),
    ]
]


def repository_files() -> list[str]:
    """Paths of every file that is tracked or would be by `git add`."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return sorted(name for name in set(listing.split("\0")) - {""} if (ROOT / name).is_file())


def read_lock(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    pins = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {package: version for package, version in pins}  # noqa: C416 a line that is no pin fails here


@pytest.fixture(scope="module")
def wheel_files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    # without isolation: the build tools are locked with the rest, and nothing is downloaded
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    built = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert built.returncode == 0, built.stdout
    (wheel,) = out.iterdir()
    return zipfile.ZipFile(wheel).namelist()


def test_wheel_top_level_is_the_shipped_packages(wheel_files: list[str]) -> None:
    dist_info = f"kompakt_st-{__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel_files} == {*SHIPPED, dist_info}
    assert {f"{dist_info}/licenses/LICENSE", f"{dist_info}/licenses/NOTICE"} <= set(wheel_files)


def test_wheel_holds_every_file_of_the_shipped_packages(wheel_files: list[str]) -> None:
    in_checkout = {name for name in repository_files() if name.startswith(tuple(f"{top}/" for top in SHIPPED))}
    in_wheel = {name for name in wheel_files if ".dist-info/" not in name}
    assert in_wheel == in_checkout


def test_wheel_holds_the_pocket_model(wheel_files: list[str]) -> None:
    pocket = [name for name in wheel_files if name.startswith("compress/pocket/")]
    assert any(name.endswith(".safetensors") for name in pocket)
    assert any(name.endswith(".yaml") for name in pocket)


def test_locks_agree() -> None:
    demo, test = read_lock("demo.txt"), read_lock("test.txt")
    assert demo.items() <= test.items()


def test_locks_pin_and_name_no_build() -> None:
    for lock in ("demo.txt", "test.txt"):
        for package, version in read_lock(lock).items():
            assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*", package), package
            assert re.fullmatch(r"[0-9][0-9a-z.]*", version), f"{package}=={version}"


def test_demo_lock_has_no_training_side() -> None:
    assert not read_lock("demo.txt").keys() & {"bitsandbytes", "librosa", "peft", "sacrebleu", "vllm"}


def test_lock_is_what_is_installed() -> None:
    installed = {package: metadata.version(package).partition("+")[0] for package in read_lock("test.txt")}
    assert installed == read_lock("test.txt")


def test_no_file_names_a_package_registry() -> None:
    named = [
        f"{name}: {host}"
        for name in repository_files()
        for host in REGISTRY_HOSTS
        if host.encode() in (ROOT / name).read_bytes()
    ]
    assert not named
