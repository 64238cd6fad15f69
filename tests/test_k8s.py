import shutil
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from docker_cases import K8S, manifests, pods, run
from pipeline.settings import load

CRDS = {"ScaledObject", "TriggerAuthentication"}


def test_every_manifest_is_named_by_its_kustomization():
    for folder in [K8S / "base", *(K8S / "overlays").iterdir()]:
        given = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
        named = given["resources"] + [patch["path"] for patch in given.get("patches", ())]
        files = {f.name for f in folder.glob("*.yaml")} - {"kustomization.yaml"}
        assert {name for name in named if not name.startswith("..")} == files
        assert all((folder / name).exists() for name in named)


def test_manifests_are_what_kubernetes_takes():
    for file, document in manifests():
        if document["kind"] not in CRDS and file.parent.name != "gpu":
            kubernetes_validate.validate(document, "1.37", strict=True)


@pytest.mark.parametrize("overlay", ["cpu", "gpu"])
def test_overlay_builds_into_what_kubernetes_takes(overlay):
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        base = [document["kind"] for _, document in manifests(K8S / "base")]
        assert "StatefulSet" in base  # files are checked one by one above
        return
    done = run(kubectl, "kustomize", K8S / "overlays" / overlay)
    assert not done.returncode, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    for document in built:
        if document["kind"] not in CRDS:
            kubernetes_validate.validate(document, "1.37", strict=True)
    (worker,) = (d for d in built if d["kind"] == "StatefulSet")
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith("-cuda" if overlay == "gpu" else "-cpu")
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (overlay == "gpu")


def test_every_pod_fits_the_restricted_profile_and_cannot_write():
    for name, pod in pods(manifests(K8S / "base")):
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_every_setting_of_a_pod_exists_and_is_valid():
    documents = list(manifests(K8S / "base"))
    (shared,) = (d["data"] for _, d in documents if d["kind"] == "ConfigMap")
    for name, pod in pods(documents):
        for container in pod["containers"]:
            own = {e["name"]: e.get("value", "10.0.0.1") for e in container["env"]}
            assert load({**shared, **own}), name
            paths = [v for k, v in {**shared, **own}.items() if k.endswith("_FILE")]
            mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
            needed = [p for p in paths if "INFLUX" not in p and Path(p).parent.name != "authority"]
            assert all(any(p.startswith(f"{m}/") for m in mounts) for p in needed), name


def test_a_worker_pod_keeps_its_name_in_the_group_and_is_watched():
    (worker,) = (pod for name, pod in pods(manifests(K8S / "base")) if name == "echowatch-worker")
    (container,) = worker["containers"]
    (name,) = (e for e in container["env"] if e["name"] == "ECHOWATCH_WORKER__INSTANCE_ID")
    assert name["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert container["livenessProbe"]["httpGet"]["path"] == "/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert worker["terminationGracePeriodSeconds"] > load({}).worker.drain_s


def test_scaling_stays_within_the_partitions_and_watches_the_group_of_the_workers():
    kafka = load({}).kafka
    for overlay in ("cpu", "gpu"):
        documents = manifests(K8S / "overlays" / overlay)
        (scaled,) = (d["spec"] for _, d in documents if d["kind"] == "ScaledObject")
        assert scaled["maxReplicaCount"] <= kafka.partitions
        (trigger,) = scaled["triggers"]
        assert trigger["metadata"]["consumerGroup"] == f"{kafka.group}-signals"
        assert trigger["metadata"]["topic"] == kafka.signals[0]
        assert trigger["metadata"]["tls"] == "enable"


def test_no_manifest_holds_a_secret_and_nothing_is_let_in_unnamed():
    documents = [document for _, document in manifests()]
    assert not [d for d in documents if d["kind"] == "Secret"]
    denied = [
        d["spec"]
        for d in documents
        if d["kind"] == "NetworkPolicy" and d["metadata"]["name"] == "echowatch-deny"
    ]
    assert denied == [{"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}]
