"""The Helm chart: linted and rendered by Helm, and judged by the schemas of Kubernetes, KEDA and Prometheus' operator.

It was never run on a cluster.
"""

import json
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import ServiceMonitor

from service.settings import Settings
from service.telemetry.load_report import GAUGES
from service.telemetry.probes import PROBES
from tests.conftest import REPOSITORY
from tests.deploy.conftest import tool
from tests.deploy.helm_engine import CHART, NAMESPACE, complaints, rendered

SETTINGS = {"max_upload_bytes": 5_000_000, "max_backlog_s": 2.5, "cors_origins": ["https://a.example"], "trace": True}
CASES: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "a volume": {"bundles": {"source": "claim", "claim": "bundles", "subPath": "mnist"}, "replicas": 3},
    "an image volume": {"bundles": {"source": "oci", "oci": {"reference": "r.example/bundles:1"}}},
    "a copied image": {"bundles": {"source": "oci", "oci": {"reference": "r.example/bundles:1", "mount": "copy"}}},
    "a gpu": {"gpu": {"enabled": True, "runtimeClassName": "nvidia"}, "image": {"tag": "gpu"}},
    "grpc": {"grpc": {"enabled": True}},
    "keys and settings": {"keys": {"secret": "keys"}, "settings": SETTINGS, "shutdownSeconds": 3_000_000},
    "keda": {"autoscaling": {"kind": "keda", "prometheusAddress": "http://prometheus:9090"}},
    "hpa": {"autoscaling": {"kind": "hpa", "waitSeconds": 0.25}, "serviceMonitor": {"enabled": True}},
}
CUSTOM = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor}
SINCE = {"an image volume": "1.31"}  # when Kubernetes' schemas first had what the case needs
OLDEST = "1.29"  # as kubeVersion in Chart.yaml


def container(values: dict[str, Any]) -> dict[str, Any]:
    (only,) = rendered(**values)["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(only)


def pod(values: dict[str, Any]) -> dict[str, Any]:
    return dict(rendered(**values)["Deployment"]["spec"]["template"]["spec"])


def environment(values: dict[str, Any]) -> dict[str, str]:
    return {variable["name"]: variable["value"] for variable in container(values)["env"]}


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_no_fault(case: str) -> None:
    assert complaints(**CASES[case]) == []


@pytest.mark.parametrize("case", CASES)
def test_every_object_follows_the_schemas(case: str) -> None:
    objects = rendered(**CASES[case])
    for kind in objects.keys() & CUSTOM.keys():
        model = CUSTOM[kind].model_validate(objects[kind])
        # What a schema does not know is dropped, so that an unknown field shows.
        assert json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) == objects[kind]
    for version in (SINCE.get(case, OLDEST), kubernetes_validate.latest_version()):
        for kind in objects.keys() - CUSTOM.keys():
            kubernetes_validate.validate(objects[kind], version, strict=True)


def test_the_schemas_refuse_a_slip() -> None:
    deployment = deepcopy(rendered()["Deployment"])
    deployment["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(deployment, OLDEST, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(rendered(**CASES["an image volume"])["Deployment"], OLDEST, strict=True)


@pytest.mark.parametrize("case", CASES)
def test_a_container_that_is_broken_into_can_do_little(case: str) -> None:
    spec = pod(CASES[case])
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert f"USER {spec['securityContext']['runAsUser']}:" in (REPOSITORY / "Dockerfile").read_text()
    assert not spec["automountServiceAccountToken"]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    for each in [*spec["containers"], *spec.get("initContainers", [])]:
        hardened = each["securityContext"]
        assert hardened["readOnlyRootFilesystem"]
        assert hardened["capabilities"] == {"drop": ["ALL"]}
        assert not hardened["allowPrivilegeEscalation"]
        assert each["resources"]["limits"]["memory"]
    for mount in container(CASES[case])["volumeMounts"]:
        assert mount.get("readOnly") or mount["name"] == "tmp"


@pytest.mark.parametrize("case", CASES)
def test_the_service_accepts_its_environment(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder that is mounted is not here; all other settings are as the pod has them."""
    for name, value in environment(CASES[case]).items():
        monkeypatch.setenv(name, str(tmp_path) if name == "TRILEMMA_BUNDLES" else value)
    settings = Settings()
    expected = CASES[case].get("settings", {})
    assert {name: getattr(settings, name) for name in expected} == expected
    assert (settings.host, settings.log_format) == ("0.0.0.0", "json")  # noqa: S104
    assert settings.device == ("cuda" if case == "a gpu" else "cpu")
    assert (settings.keys is not None) == (case == "keys and settings")


def test_every_setting_can_be_given_but_those_of_the_chart() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    own = {"host", "port", "bundles", "device", "keys", "shutdown_s", "grpc_port"}
    assert set(schema["properties"]["settings"]["propertyNames"]["enum"]) == Settings.model_fields.keys() - own


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"settings": {"max_batches": 8}}, "max_batches"),
        ({"settings": {"port": 9000}}, "port"),
        ({"bundles": {"source": "claim"}}, "/bundles/claim"),
        ({"bundles": {"source": "oci"}}, "/bundles/oci/reference"),
        ({"autoscaling": {"kind": "keda"}}, "/autoscaling/prometheusAddress"),
        ({"image": {"digest": "sha256:12"}}, "/image/digest"),
        ({"shutdownSeconds": "2m"}, "/shutdownSeconds"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        rendered(**values)


@pytest.mark.parametrize("values", [{}, {"drainSeconds": 0, "shutdownSeconds": 3_000_000}])
def test_a_pod_has_time_to_leave_the_balancers_and_to_finish_what_it_accepted(values: dict[str, Any]) -> None:
    drain_s = values.get("drainSeconds", 5)
    stop = container(values)["lifecycle"]["preStop"]["exec"]["command"]
    assert stop[2] == f"import time; time.sleep({drain_s})"
    if not drain_s:
        subprocess.run([sys.executable, *stop[1:]], check=True)
    shutdown_s = int(environment(values)["TRILEMMA_SHUTDOWN_S"])
    assert shutdown_s == values.get("shutdownSeconds", 120)
    assert pod(values)["terminationGracePeriodSeconds"] > drain_s + shutdown_s


def test_all_of_it_means_the_same_pods_and_the_same_port() -> None:
    objects = rendered(**CASES["hpa"])
    labels = objects["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [objects["Service"]["spec"]["selector"], objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]]
    selectors += [objects[kind]["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")]
    assert all(selector.items() <= labels.items() for selector in selectors)
    monitor = objects["ServiceMonitor"]["spec"]
    assert monitor["selector"]["matchLabels"].items() <= objects["Service"]["metadata"]["labels"].items()
    assert objects["Service"]["metadata"]["labels"][monitor["jobLabel"]] == "trilemma"  # as the dashboards' queries say
    (port,) = container({})["ports"]
    assert f"EXPOSE {port['containerPort']}" in (REPOSITORY / "Dockerfile").read_text()
    assert environment({})["TRILEMMA_PORT"] == str(port["containerPort"])
    assert monitor["endpoints"][0]["port"] in [each["name"] for each in objects["Service"]["spec"]["ports"]]
    probes = [container({})[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")]
    assert {probe["port"] for probe in probes} == {port["name"]}
    assert {probe["path"] for probe in probes} <= PROBES


def test_grpc_is_a_second_port_of_the_pod_its_service_and_its_policy() -> None:
    objects = rendered(**CASES["grpc"])
    _, port = container(CASES["grpc"])["ports"]
    assert environment(CASES["grpc"])["TRILEMMA_GRPC_PORT"] == str(port["containerPort"])
    assert f"EXPOSE 8000 {port['containerPort']}" in (REPOSITORY / "Dockerfile").read_text()
    _, served = objects["Service"]["spec"]["ports"]
    _, allowed = objects["NetworkPolicy"]["spec"]["ingress"]
    assert served["targetPort"] == port["name"]
    assert allowed["ports"] == [{"port": port["name"], "protocol": "TCP"}]
    assert "grpc" not in str(rendered())


def test_an_autoscaler_sets_the_replicas_alone() -> None:
    assert rendered()["Deployment"]["spec"]["replicas"] == 2
    for case, kind in (("keda", "ScaledObject"), ("hpa", "HorizontalPodAutoscaler")):
        objects = rendered(**CASES[case])
        assert "replicas" not in objects["Deployment"]["spec"]
        assert objects[kind]["spec"]["scaleTargetRef"]["name"] == objects["Deployment"]["metadata"]["name"]
    (metric,) = rendered(**CASES["hpa"])["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in GAUGES
    assert metric["pods"]["target"]["averageValue"] == "250m"


def test_keda_asks_for_the_sum_over_replicas_of_their_longest_wait(tmp_path: Path) -> None:
    (trigger,) = rendered(**CASES["keda"])["ScaledObject"]["spec"]["triggers"]
    waits = {("a", "ddim"): 1, ("a", "vdm"): 3, ("b", "ddim"): 2}
    place = f'namespace="{NAMESPACE}", service="images-trilemma"'
    series = [
        {"series": f'trilemma_predicted_wait_seconds{{{place}, pod="{pod}", method="{method}"}}', "values": wait}
        for (pod, method), wait in waits.items()
    ]
    series.append({"series": 'trilemma_predicted_wait_seconds{namespace="another", pod="c"}', "values": 50})
    expected = {"expr": trigger["metadata"]["query"], "eval_time": "0m", "exp_samples": [{"labels": "{}", "value": 5}]}
    tests = {"tests": [{"interval": "1m", "input_series": series, "promql_expr_test": [expected]}]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(tests))
    ended = subprocess.run([tool("promtool"), "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
