"""The manifests are what Kubernetes and KubeRay take, agree with each other and the lock, and hold no secret."""

import re
import shlex
import tomllib
import warnings
from itertools import pairwise

import pytest
import yaml

from murk import ROOMS
from study.asjob import job_facts
from study.studyfile import PRESETS, load_study
from tests.unit.cluster.manifests import ALL, CLUSTER, IDS, KUBERNETES, ROOT, locked, of_kind, pod_templates, walk

KUBERNETES_VERSION = "1.34"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
IMAGE = f"murk:{PROJECT['version']}"
COMPOSE = yaml.safe_load((CLUSTER / "compose.yaml").read_text())

# The fields of ray.io/v1 that are used here, by KubeRay 1.6's API reference
# (https://docs.ray.io/en/master/cluster/kubernetes/references/api.html).
RAY_FIELDS = {
    "RayClusterSpec": {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec",
                       "workerGroupSpecs"},
    "RayJobSpec": {"entrypoint", "submissionMode", "backoffLimit", "shutdownAfterJobFinishes",
                   "ttlSecondsAfterFinished", "runtimeEnvYAML", "submitterPodTemplate", "rayClusterSpec"},
    "headGroupSpec": {"serviceType", "rayStartParams", "template"},
    "workerGroupSpecs": {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"},
    "authOptions": {"mode", "secretName"},
    "autoscalerOptions": {"upscalingMode", "idleTimeoutSeconds"},
}  # fmt: skip


def _cluster_specs():
    specs = [item["spec"] for item in of_kind("RayCluster")] + [j["spec"]["rayClusterSpec"] for j in of_kind("RayJob")]
    assert len(specs) == 2
    return specs


@pytest.mark.parametrize("item", [item for _, item in ALL], ids=IDS)
def test_kubernetes_takes_it(item):
    """Core kinds whole; of Ray's own kinds the pod templates, which are core kinds."""
    validator = pytest.importorskip("kubernetes_validate", reason="of the extra `dev`")
    if not item["apiVersion"].startswith("ray.io/"):
        validator.validate(item, KUBERNETES_VERSION, strict=True)
    templates = pod_templates(item)
    for template in templates:
        pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": template}
        validator.validate(pod, KUBERNETES_VERSION, strict=True)
    assert templates or item["kind"] in {"PersistentVolumeClaim", "Service", "NetworkPolicy"}


def test_the_validator_refuses_a_misspelt_field():
    validator = pytest.importorskip("kubernetes_validate", reason="of the extra `dev`")
    service = {**of_kind("Service")[0]}
    service["spec"] = {**service["spec"], "sort": "ClusterIP"}
    with pytest.raises(validator.ValidationError):
        validator.validate(service, KUBERNETES_VERSION, strict=True)


def test_kuberay_knows_the_fields():
    for job in of_kind("RayJob"):
        assert set(job["spec"]) <= RAY_FIELDS["RayJobSpec"]
        assert isinstance(yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"], dict)
    for spec in _cluster_specs():
        assert set(spec) <= RAY_FIELDS["RayClusterSpec"]
        assert set(spec["headGroupSpec"]) <= RAY_FIELDS["headGroupSpec"]
        assert set(spec.get("autoscalerOptions", {})) <= RAY_FIELDS["autoscalerOptions"]
        assert spec["authOptions"] == {"mode": "token", "secretName": "murk-ray-token"}
        for group in spec["workerGroupSpecs"]:
            assert set(group) == RAY_FIELDS["workerGroupSpecs"]
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert all(isinstance(value, str) for value in group["rayStartParams"].values())


def test_versions_are_those_of_the_lock():
    for spec in _cluster_specs():
        assert spec["rayVersion"] == locked("ray")
    images = {item["image"] for _, document in ALL for item in walk(document) if "image" in item}
    images |= {service["image"] for service in COMPOSE["services"].values()}
    assert images == {IMAGE, "postgres:17-bookworm"}
    dockerfile = (CLUSTER / "Dockerfile").read_text()
    base = re.search(r"^FROM python:(\d+\.\d+)-", dockerfile, flags=re.MULTILINE)
    assert base is not None
    assert PROJECT["requires-python"] == f">={base.group(1)}"
    assert f"-t {IMAGE} " in dockerfile


def test_the_image_holds_all_of_murk():
    copied = re.findall(r"^COPY (.+) \S+$", (CLUSTER / "Dockerfile").read_text(), flags=re.MULTILINE)
    names = {name for line in copied for name in line.split()}
    assert {*ROOMS, "murk.py", "pyproject.toml", "requirements.lock"} <= names
    assert [name for name in names if not (ROOT / name).exists()] == []


def test_every_container_has_requests_and_limits():
    for _, document in ALL:
        for template in pod_templates(document):
            assert template["spec"]["securityContext"]["runAsNonRoot"] is True
            for container in template["spec"]["containers"]:
                requests, limits = container["resources"]["requests"], container["resources"]["limits"]
                assert set(requests) == set(limits) >= {"cpu", "memory"}
                assert requests.get("nvidia.com/gpu") == limits.get("nvidia.com/gpu")
                assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_volumes_and_claims_are_there():
    claims = {item["metadata"]["name"] for item in of_kind("PersistentVolumeClaim")}
    for _, document in ALL:
        for template in pod_templates(document):
            volumes = {item["name"]: item for item in template["spec"].get("volumes", ())}
            mounts = {m["name"] for c in template["spec"]["containers"] for m in c.get("volumeMounts", ())}
            assert mounts == set(volumes)
            used = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
            assert used <= claims


def test_services_stay_inside_and_meet_their_pods():
    pods = {
        template["metadata"]["labels"]["app.kubernetes.io/name"]: template
        for _, document in ALL
        for template in pod_templates(document)
        if "app.kubernetes.io/name" in template["metadata"]["labels"]
    }
    places = set()
    for service in of_kind("Service"):
        spec = service["spec"]
        assert spec["type"] == "ClusterIP"
        ports = pods[spec["selector"]["app.kubernetes.io/name"]]["spec"]["containers"][0]["ports"]
        named = {port["name"]: port["containerPort"] for port in ports}
        for port in spec["ports"]:
            assert named[port["targetPort"]] == port["port"]
            places.add(f"{service['metadata']['name']}:{port['port']}")
    for spec in _cluster_specs():
        assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    text = "".join(path.read_text() for path in KUBERNETES)
    assert set(re.findall(r"(?<=[@/])murk-[a-z]+:\d+", text)) == places
    for policy in of_kind("NetworkPolicy"):
        open_ports = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
        assert open_ports == {int(place.split(":")[1]) for place in places}


def test_secrets_are_referred_to_only():
    text = "".join(path.read_text() for path in KUBERNETES)
    told = dict(re.findall(r"kubectl create secret generic (\S+) --from-literal=(\w+)=", text))
    assert of_kind("Secret") == []
    used = set()
    for _, document in ALL:
        for item in walk(document):
            if "secretKeyRef" in item:
                reference = item["secretKeyRef"]
                assert told[reference["name"]] == reference["key"]
                used.add(reference["name"])
            if "secretName" in item:
                used.add(item["secretName"])
            if re.search("PASSWORD|TOKEN|SECRET", str(item.get("name", ""))):
                assert "value" not in item, item
    assert used == set(told)
    assert told["murk-ray-token"] == "auth_token"  # the key that KubeRay looks for


def test_compose_binds_this_machine_only_and_demands_passwords():
    services = COMPOSE["services"]
    assert set(services) == {"postgres", "mlflow", "ray"}
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "mem_limit" in service
        for variable, value in service["environment"].items():
            if re.search("PASSWORD|TOKEN", variable):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), variable
        volumes = {str(item).split(":")[0] for item in service.get("volumes", ())}
        assert {item for item in volumes if item[0] not in "$."} <= set(COMPOSE["volumes"])
        assert set(service.get("depends_on", ())) <= set(services)
    assert "@postgres:5432/" in services["mlflow"]["command"]
    assert services["ray"]["environment"]["RAY_AUTH_MODE"] == "token"
    assert COMPOSE["x-murk"]["build"] == {"context": "..", "dockerfile": "cluster/Dockerfile"}


def _commands() -> list[list[str]]:
    """The commands that the files give to Ray and MLflow."""
    mlflow = next(c for t in pod_templates(of_kind("Deployment")[0]) for c in t["spec"]["containers"])
    lines = [service["command"] for service in COMPOSE["services"].values() if "command" in service]
    script = (CLUSTER / "slurm.sh").read_text().replace("\\\n", " ")
    lines += re.findall(r'"\$ray" (start .*?) "\$\{common', script)
    lines += ["start " + " ".join(re.findall(r"common=\((.+)\)", script))]
    return [[*mlflow["command"], *mlflow["args"]], *(shlex.split(line) for line in lines)]


@pytest.mark.slow
def test_ray_and_mlflow_know_their_options():
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # MLflow's, of its own models
        from mlflow.cli import server
    from ray.scripts.scripts import start

    commands = _commands()
    assert len(commands) == 6
    for command in commands:
        known = {name for option in (server if "server" in command else start).params for name in option.opts}
        given = {part.partition("=")[0] for part in command if part.startswith("--")}
        assert given
        assert given <= known, command
    params = {name for spec in _cluster_specs() for name in spec["headGroupSpec"]["rayStartParams"]}
    assert {f"--{name}" for name in params} <= {name for option in start.params for name in option.opts}


def test_the_ray_jobs_study_is_fit_for_a_job(tmp_path):
    for job in of_kind("RayJob"):
        python, *rest = shlex.split(job["spec"]["entrypoint"])
        assert [python, *rest[:4]] == ["python", "-m", "murk", "run", "gpu-cluster"]
        options = rest[4:]
        sets = [value for name, value in pairwise(options) if name == "--set"]
        storage = options[options.index("--storage") + 1]
        loaded = load_study(PRESETS / "gpu-cluster.yaml", sets)
        assert job_facts(loaded, sets=sets, storage=storage, cwd=tmp_path)["storage"] == storage
        needs = loaded.config.resources
        worker = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]
        limits = worker["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) >= needs.gpus_per_worker
        assert int(limits["cpu"]) >= int(limits["nvidia.com/gpu"]) * needs.cpus_per_worker
