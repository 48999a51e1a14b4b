"""The manifests agree with the server, with the image, with each other and with Kubernetes' schemas."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final

import promql_parser
import pytest
import yaml

from compress import __version__
from serve.auth import read_keys
from serve.settings import Settings
from tests.serve.deploy import dockerfile
from tests.serve.deploy.conftest import KEY, Accept
from tests.serve.deploy.dockerfile import ROOT, TARGETS

FOLDER: Final = ROOT / "serve" / "deploy" / "kubernetes"
NO_MANIFESTS: Final = {"kustomization.yaml", "metrics-adapter.yaml"}
OWN: Final = {"PodMonitor"}  # kinds that Kubernetes has no schema of
Document = dict[str, Any]

FILES: Final[dict[str, list[Document]]] = {
    file.name: list(yaml.safe_load_all(file.read_text(encoding="utf-8"))) for file in sorted(FOLDER.glob("*.yaml"))
}
DOCUMENTS: Final = [document for name in FILES.keys() - NO_MANIFESTS for document in FILES[name]]
(KUSTOMIZATION,) = FILES["kustomization.yaml"]


def of(kind: str) -> dict[str, Document]:
    """All manifests of a kind, by name."""
    found = [document for document in DOCUMENTS if document["kind"] == kind]
    return {each["metadata"].get("name", each["metadata"].get("generateName")): each for each in found}


WORKLOADS: Final = {**of("Deployment"), **of("StatefulSet"), **of("Job")}
SERVERS: Final = {**of("Deployment"), **of("StatefulSet")}
GPU: Final = of("StatefulSet")["kompakt-gpu"]
FRONT: Final = of("Deployment")["kompakt-front"]


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def container(workload: Document) -> Document:
    (only,) = pod(workload)["containers"]
    return dict(only)


def environment(workload: Document) -> dict[str, str]:
    """With a key in the place of secrets."""
    return {variable["name"]: variable.get("value", KEY) for variable in container(workload)["env"]}


def target(workload: Document) -> str:
    """The target of the Dockerfile from which its image is."""
    found = re.search(r"kompakt-(\w+)", container(workload)["image"])
    assert found
    return found[1]


def within(value: object, key: str) -> Iterator[Any]:
    """Everything that stands under a key, however deep."""
    if isinstance(value, dict):
        yield from (value[key],) if key in value else ()
        for each in value.values():
            yield from within(each, key)
    elif isinstance(value, list):
        for each in value:
            yield from within(each, key)


def number_of_bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([MG])i", quantity).groups()  # type: ignore[union-attr]  # others fail here
    return int(number) << {"M": 20, "G": 30}[unit]


@pytest.fixture
def settings(accept: Accept, request: pytest.FixtureRequest) -> Settings:
    workload = SERVERS[request.param]
    return accept(dockerfile.environment(target(workload)), environment(workload))


each_server = pytest.mark.parametrize(("name", "settings"), [(name, name) for name in SERVERS], indirect=["settings"])


def test_every_file_is_applied_with_the_rest_or_says_how() -> None:
    together = set(KUSTOMIZATION["resources"])
    assert together <= FILES.keys()
    page = (FOLDER.parent / "README.md").read_text(encoding="utf-8")
    assert not [name for name in FILES.keys() - together if f"kubernetes/{name}" not in page]
    for name in FILES.keys() - together - NO_MANIFESTS:
        assert {each["metadata"]["namespace"] for each in FILES[name]} == {KUSTOMIZATION["namespace"]}, name


def test_selectors_select() -> None:
    templates = [workload["spec"]["template"]["metadata"]["labels"] for workload in WORKLOADS.values()]
    selectors = [
        *within(DOCUMENTS, "matchLabels"),
        *(service["spec"]["selector"] for service in of("Service").values()),
    ]
    ours = [labels for labels in selectors if "app.kubernetes.io/name" in labels]
    assert len(ours) > 8
    for labels in ours:
        assert any(labels.items() <= template.items() for template in templates), labels
    for workload in SERVERS.values():
        assert workload["spec"]["selector"]["matchLabels"] == workload["spec"]["template"]["metadata"]["labels"]
    components = [labels["app.kubernetes.io/component"] for labels in templates]
    assert len(set(components)) == len(components), "or one would take another's pods"


@each_server
def test_the_server_accepts_its_environment(name: str, settings: Settings) -> None:
    assert settings.keys
    assert settings.engine == {"kompakt-gpu": "vllm", "kompakt-front": "remote"}[name]
    assert {port["containerPort"] for port in container(SERVERS[name])["ports"]} == {settings.port}


@each_server
def test_a_pod_may_take_its_time_to_end(name: str, settings: Settings) -> None:
    pause_s = container(SERVERS[name])["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod(SERVERS[name])["terminationGracePeriodSeconds"] >= pause_s + settings.drain_s + 30


@each_server
def test_uploads_and_shared_memory_fit(name: str, settings: Settings) -> None:
    volumes = {volume["name"]: volume for volume in pod(SERVERS[name])["volumes"]}
    in_memory = [size["sizeLimit"] for size in within(volumes, "emptyDir") if size.get("medium") == "Memory"]
    limit = number_of_bytes(container(SERVERS[name])["resources"]["limits"]["memory"])
    assert limit - sum(map(number_of_bytes, in_memory)) >= 2 << 30
    # a GPU server gets clips of half a minute: two megabytes each at most
    upload_bytes = 2 << 20 if name == "kompakt-gpu" else settings.max_upload_bytes
    assert number_of_bytes(volumes["tmp"]["emptyDir"]["sizeLimit"]) >= settings.max_requests * upload_bytes


@pytest.mark.parametrize("name", SERVERS)
def test_probes_ask_what_the_server_answers(name: str, paths: set[str]) -> None:
    server = container(SERVERS[name])
    probes = {probe: server[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert set(probes.values()) <= paths
    assert {probe["port"] for probe in within(server, "httpGet")} == {"http"}


def test_ports_are_called_the_same_everywhere(paths: set[str]) -> None:
    named = [port["name"] for workload in SERVERS.values() for port in container(workload)["ports"]]
    assert set(named) == {"http"}
    asked = [port["targetPort"] for service in of("Service").values() for port in service["spec"]["ports"]]
    (monitored,) = of("PodMonitor")["kompakt"]["spec"]["podMetricsEndpoints"]
    assert {*asked, monitored["port"]} == {"http"}
    assert monitored["path"] in paths
    allowed = [port["port"] for ports in within(of("NetworkPolicy"), "ports") for port in ports]
    assert set(allowed) == {"http", 53, 443}


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_pod_is_contained(name: str) -> None:
    """What the namespace's `restricted` asks for, and more."""
    spec, only = pod(WORKLOADS[name]), container(WORKLOADS[name])
    (user,) = {dockerfile.arguments(stage, "USER")[-1] for stage in TARGETS}
    context = spec["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    memory = {kind: number_of_bytes(only["resources"][kind]["memory"]) for kind in ("requests", "limits")}
    assert memory["limits"] >= memory["requests"]


@pytest.mark.parametrize("name", WORKLOADS)
def test_what_is_mounted_exists_and_what_is_written_can_be(name: str) -> None:
    volumes = {volume["name"]: volume for volume in pod(WORKLOADS[name])["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in container(WORKLOADS[name])["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    for folder in ("/tmp", "/cache"):
        assert "emptyDir" in volumes[mounts[folder]["name"]]
        assert not mounts[folder].get("readOnly")
    for claim in within(volumes, "claimName"):
        assert claim in of("PersistentVolumeClaim")
    for secret in within(volumes, "secret"):
        assert {item["key"] for item in secret["items"]} <= of("Secret")[secret["secretName"]]["stringData"].keys()


def test_the_model_is_read_only_where_it_is_served() -> None:
    mount = next(mount for mount in container(GPU)["volumeMounts"] if mount["name"] == "models")
    assert mount["readOnly"] is True
    assert environment(GPU)["SERVE_MODEL"].startswith(f"{mount['mountPath']}/")


def test_keys_come_from_a_secret_whose_example_is_refused() -> None:
    asked = [*within(WORKLOADS, "secretKeyRef"), *within(of("PodMonitor"), "credentials")]
    assert len(asked) == 3
    for reference in asked:
        assert reference["key"] in of("Secret")[reference["name"]]["stringData"]
    for example in of("Secret")["kompakt-keys"]["stringData"].values():
        with pytest.raises(ValueError, match="16 or more"):
            read_keys([example], None)


def test_the_front_knows_every_pod_that_there_may_be() -> None:
    scaler = of("HorizontalPodAutoscaler")["kompakt-gpu"]["spec"]
    assert {key: GPU[key] for key in ("apiVersion", "kind")} | {"name": GPU["metadata"]["name"]} == scaler[
        "scaleTargetRef"
    ]
    assert "replicas" not in GPU["spec"], "it is the autoscaler's"
    service = of("Service")[GPU["spec"]["serviceName"]]
    assert service["spec"]["clusterIP"] == "None"
    (port,) = service["spec"]["ports"]
    name = GPU["metadata"]["name"]
    pods = [f"http://{name}-{i}.{service['metadata']['name']}:{port['port']}" for i in range(scaler["maxReplicas"])]
    assert [url.strip() for url in environment(FRONT)["SERVE_REMOTE_URL"].split(",")] == pods


def test_the_autoscaler_goes_by_what_the_server_tells(told: set[str]) -> None:
    (metric,) = of("HorizontalPodAutoscaler")["kompakt-gpu"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert name in told
    (adapter,) = FILES["metrics-adapter.yaml"]
    (rule,) = adapter["rules"]["custom"]
    assert rule["name"]["matches"] == name
    series = promql_parser.parse(rule["seriesQuery"])
    assert isinstance(series, promql_parser.VectorSelector)
    assert series.name == name
    query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.Series>>", name)
    promql_parser.parse(query.replace("<<.LabelMatchers>>", 'pod="kompakt-gpu-0"'))
    assert int(metric["pods"]["target"]["averageValue"]) < int(environment(GPU)["SERVE_MAX_BATCH"])


def test_images_are_named_by_version() -> None:
    images = {image["name"]: image for image in KUSTOMIZATION["images"]}
    assert {container(workload)["image"] for workload in SERVERS.values()} == images.keys()
    assert {image["newTag"] for image in images.values()} == {__version__}
    fetched = container(of("Job")["kompakt-fetch-model-"])["image"]
    assert fetched == f"{images['kompakt-cpu']['newName']}:{__version__}"
    assert {target(workload) for workload in WORKLOADS.values()} == set(TARGETS)


def test_one_gpu_a_pod() -> None:
    wanted = {name: list(within(pod(workload), "nvidia.com/gpu")) for name, workload in WORKLOADS.items()}
    assert wanted == {"kompakt-gpu": [1], "kompakt-front": [], "kompakt-fetch-model-": []}


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_kubernetes_schemas_accept_every_manifest(version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for document in DOCUMENTS:
        if document["kind"] not in OWN:
            validator.validate(document, version, strict=True)


def test_kustomize_builds_what_is_applied() -> None:
    kubectl = shutil.which("kubectl")
    if not kubectl:
        pytest.skip("kubectl is not installed")
    done = subprocess.run([kubectl, "kustomize", str(FOLDER)], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    built = list(yaml.safe_load_all(done.stdout))
    assert len(built) == sum(len(FILES[name]) for name in KUSTOMIZATION["resources"])
    images = {image for image in within(built, "image") if isinstance(image, str)}
    assert images == {f"{image['newName']}:{__version__}" for image in KUSTOMIZATION["images"]}
