"""One machine: the compose file, and what it gives Prometheus and Grafana."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from serve.settings import ENV_PREFIX, Settings
from tests.serve.deploy import dockerfile
from tests.serve.deploy.conftest import Accept
from tests.serve.deploy.dockerfile import ROOT

FOLDER: Final = ROOT / "serve" / "deploy"


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return content


COMPOSE: Final = load("compose.yaml")
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
SERVERS: Final = [name for name, service in SERVICES.items() if "build" in service]


def mounts(service: str) -> dict[str, str]:
    """Target → source of what is not a volume of Docker's own."""
    found: dict[str, str] = {}
    for volume in SERVICES[service].get("volumes", []):
        if isinstance(volume, dict):
            found[volume["target"]] = volume["source"]
        elif (parts := volume.split(":"))[0] not in COMPOSE["volumes"]:
            found[parts[1]] = parts[0]
    return found


def seconds(duration: str) -> int:
    return int(re.fullmatch(r"(\d+)s", duration)[1])  # type: ignore[index]  # any other form fails here


def test_each_image_has_its_profile() -> None:
    built = {SERVICES[name]["build"]["target"]: SERVICES[name]["profiles"] for name in SERVERS}
    assert built == {"cpu": ["cpu"], "cuda": ["gpu"]}
    for name in SERVERS:
        assert (FOLDER / SERVICES[name]["build"]["context"]).resolve() == ROOT
    wants_gpu = [name for name, service in SERVICES.items() if "deploy" in service]
    assert wants_gpu == ["server-gpu"]


@pytest.mark.parametrize("name", SERVERS)
def test_the_server_accepts_its_environment(name: str, accept: Accept) -> None:
    service = SERVICES[name]
    given = {variable: value for variable, value in service["environment"].items() if value is not None}
    settings = accept(dockerfile.environment(service["build"]["target"]), given)
    assert settings.keys
    assert seconds(service["stop_grace_period"]) > settings.drain_s + 10
    known = {f"{ENV_PREFIX}{setting.upper()}" for setting in Settings.model_fields}
    assert set(service["environment"]) <= known, "those from outside, too"
    assert [port.split(":")[2] for port in service["ports"]] == [str(settings.port)]


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_contained(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in SERVERS])
def test_other_images_are_named_by_version_and_watched(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_is_there(name: str) -> None:
    missing = [source for source in mounts(name).values() if not source.startswith("$")]
    assert not [source for source in missing if not (FOLDER / source).is_file()]


def test_prometheus_scrapes_the_server_and_knows_the_alerts(paths: set[str], accept: Accept) -> None:
    config = load("prometheus.yaml")
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]
    files = mounts("prometheus")
    assert files["/etc/prometheus/prometheus.yaml"] == "./prometheus.yaml"
    assert [Path(files[rules]).name for rules in config["rule_files"]] == ["alerts.yaml"]
    (job,) = config["scrape_configs"]
    assert job["metrics_path"] in paths
    secret = PurePosixPath(job["authorization"]["credentials_file"])
    assert (str(secret.parent), [secret.name]) == ("/run/secrets", SERVICES["prometheus"]["secrets"])
    (target,) = job["static_configs"][0]["targets"]
    host, port = target.split(":")
    assert all(host in SERVICES[name]["networks"]["default"]["aliases"] for name in SERVERS)
    assert int(port) == accept(dockerfile.environment("cpu")).port


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    files = mounts("grafana")
    (source,) = load("grafana/datasource.yaml")["datasources"]
    address = urlsplit(source["url"])
    assert address.hostname in SERVICES
    assert SERVICES[str(address.hostname)]["ports"] == [f"127.0.0.1:{address.port}:{address.port}"]
    assert source["isDefault"], "the dashboard takes the default one"
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    dashboards = [target for target in files if PurePosixPath(target).parent.as_posix() == provider["options"]["path"]]
    assert dashboards == [SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]]
    secret = PurePosixPath(SERVICES["grafana"]["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"])
    assert (str(secret.parent), [secret.name]) == ("/run/secrets", SERVICES["grafana"]["secrets"])


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_compose_itself_accepts_the_file(profile: str) -> None:
    docker = shutil.which("docker")
    if not docker or subprocess.run([docker, "compose", "version"], check=False, capture_output=True).returncode:
        pytest.skip("Docker's compose plugin is not installed")
    command = [docker, "compose", "--file", str(FOLDER / "compose.yaml"), "--profile", profile, "config", "--quiet"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
