"""Checks what the project is deployed with: the chart in several shapes, the plain manifests, the compose file."""

import pathlib
import sys

import helm_python as helm
import kubernetes_validate
import yaml

KUBERNETES = "1.31"
CHART = "helm/tenon"
LINT_INFO = 1  # advice, like a missing icon
PROCESSES = ["auth", "tenant", "billing", "workflow", "gateway"]
# The chart as it is, and with everything that is off by default.
SHAPES = {
    "defaults": {},
    "everything": {
        "image": {"repository": "registry.example/tenon", "tag": "1.2.3", "pullPolicy": "Always"},
        "imagePullSecrets": [{"name": "pull"}],
        "otlpEndpoint": "http://collector:4317",
        "settings": {"TENON_DRAIN_S": "20"},
        "upstreamsConfigMap": "upstreams",
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "annotations": {"a/b": "c"},
            "tls": [{"secretName": "edge", "hosts": ["example.com"]}],
        },
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "podAnnotations": {"a/b": "c"},
    },
    "without brokers": {"redisUrl": "", "natsUrl": ""},
}
REFUSED = {
    "unknown value": {"replicas": 3},
    "secret among the settings": {"settings": {"TENON_MESH_KEY": "x"}},
    "password in the database URL": {"databaseUrl": "postgres://me:secret@host/db"},
}

problems: list[str] = []
counted = 0


def check(where: str, text: str) -> list[dict]:
    """Every document of a file against the schema of its kind."""
    global counted
    documents = [document for document in yaml.safe_load_all(text) if document]
    for document in documents:
        counted += 1
        name = f"{where}: {document.get('kind')}/{document.get('metadata', {}).get('name')}"
        try:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        except kubernetes_validate.ValidationError as error:
            problems.append(f"{name}: {'/'.join(map(str, error.path))}: {error.message}")
        problems.extend(f"{name}: {what}" for what in hardening(document))
    return documents


def hardening(document: dict) -> list[str]:
    """What the schema does not ask for and every pod of ours has."""
    template = document.get("spec", {}).get("template")
    if not template:
        return []
    pod, found = template["spec"], []
    if pod.get("automountServiceAccountToken") is not False:
        found.append("mounts a service account token")
    if pod.get("enableServiceLinks") is not False:
        found.append("enableServiceLinks must be false: a Service tenon-auth would set TENON_AUTH_PORT")
    if not pod.get("securityContext", {}).get("runAsNonRoot"):
        found.append("may run as root")
    for container in pod["containers"]:
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or not context.get("readOnlyRootFilesystem"):
            found.append("securityContext is open")
        if "memory" not in container.get("resources", {}).get("limits", {}):
            found.append("has no memory limit")
        if document["kind"] == "Deployment":
            missing = {"startupProbe", "livenessProbe", "readinessProbe"} - container.keys()
            found.extend(f"has no {probe}" for probe in sorted(missing))
    return found


def whole(where: str, documents: list[dict]) -> None:
    """Each process has its three objects, and the migration its Job."""
    have = {(document["kind"], document["metadata"]["name"].split("-")[-1]) for document in documents}
    want = {(kind, name) for kind in ("Deployment", "Service", "PodDisruptionBudget") for name in PROCESSES}
    for kind, name in sorted((want | {("Job", "migrate")}) - have):
        problems.append(f"{where}: no {kind} for {name}")


def chart() -> None:
    findings = helm.lint(CHART)
    for finding in findings["messages"] if isinstance(findings, dict) else findings:
        if finding["severity"] > LINT_INFO:
            problems.append(f"{CHART}: lint: {finding['path']}: {finding['error']}")
    with helm.Chart.load(CHART) as loaded:
        for shape, values in SHAPES.items():
            loaded.validate_schema(values)
            files = loaded.render(values, name="demo", namespace="tenon")
            documents = []
            for path, text in files.items():
                if path.endswith(".yaml"):
                    documents += check(f"{path} ({shape})", text)
            whole(f"{CHART} ({shape})", documents)
        for what, values in REFUSED.items():
            try:
                loaded.validate_schema(values)
            except helm.HelmError:
                continue
            problems.append(f"{CHART}/values.schema.json takes a {what}")


def manifests() -> None:
    folder = pathlib.Path("k8s")
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    listed, documents = set(kustomization["resources"]), []
    for path in sorted(folder.glob("*.yaml")):
        if path.name == "kustomization.yaml":
            continue
        if path.name not in listed and not path.name.endswith(".example.yaml"):
            problems.append(f"{path} is not in k8s/kustomization.yaml")
        documents += check(str(path), path.read_text())
    for missing in sorted(name for name in listed if not (folder / name).exists()):
        problems.append(f"k8s/kustomization.yaml lists {missing}, which is not there")
    whole("k8s", documents)


def compose() -> None:
    global counted
    services = yaml.safe_load(pathlib.Path("compose.yaml").read_text())["services"]
    for name, service in services.items():
        counted += 1
        where = f"compose.yaml: {name}"
        if not service.get("image"):
            problems.append(f"{where}: no image")
        for needed in service.get("depends_on", {}):
            if needed not in services:
                problems.append(f"{where}: depends on {needed}, which is not there")
        if name in PROCESSES and service.get("command") != ["serve", name]:
            problems.append(f"{where}: command is not [serve, {name}]")
    for name in sorted({*PROCESSES, "migrate", "postgres", "redis", "nats"} - services.keys()):
        problems.append(f"compose.yaml: no service {name}")


chart()
manifests()
compose()
if problems:
    sys.exit("\n".join(["deployment checks failed:", *(f"  {problem}" for problem in problems)]))
print(f"· {counted} deployment documents checked against Kubernetes {KUBERNETES} and the compose rules")
