"""cluster/: what Ray's launcher, Kubernetes and Docker will make of it, asked of their own schemas and parsers."""

from __future__ import annotations

import copy
import re
import shlex
from pathlib import Path

import pytest
import yaml

from robocache.config.load import job_from_mapping, load_job
from robocache.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
IMAGE = "registry.example.com/robocache:0.1.0"
VALUES = {
    "ROBOCACHE_IMAGE": IMAGE,
    "HEAD_HOST": "head.example.com",
    "SSH_USER": "operator",
    "AWS_REGION": "us-west-2",
    "AMI_ID": "ami-0123456789abcdef0",
    "HEAD_PROFILE_ARN": "arn:aws:iam::123456789012:instance-profile/head",
    "WORKER_PROFILE_ARN": "arn:aws:iam::123456789012:instance-profile/worker",
}
LAUNCHER = ["on_premise.yaml", "aws.yaml"]
KUBERAY = ["raycluster.yaml", "rayjob.yaml"]


def rendered(name: str) -> list[dict]:
    """The documents of a file once the ``envsubst`` of its own header has been run."""
    text = (CLUSTER / name).read_text()
    header = re.match(r"(#.*\n)+", text)[0]
    wanted = re.search(r"envsubst '([^']*)'", header)[1].split()
    for variable in wanted:
        assert "${" + variable[1:] + "}" in text, f"{variable} is not in {name}"
        text = text.replace("${" + variable[1:] + "}", VALUES[variable[1:]])
    assert "${" not in text
    return list(yaml.safe_load_all(text))


def pinned(package: str) -> str:
    return re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize(
    ("name", "page"),
    [("on_premise.yaml", "on_premise"), ("aws.yaml", "cloud")] + [(f"kuberay/{k}", "kubernetes") for k in KUBERAY],
)
def test_the_docs_fill_in_the_same_variables(name, page):
    command = re.search(r"envsubst '[^']*'", (CLUSTER / name).read_text())[0]
    text = (ROOT / f"docs/deployment/{page}.md").read_text()
    assert command in text
    for variable in re.findall(r"\$(\w+)", command):
        assert re.search(rf"export .*\b{variable}=", text), f"{page}.md does not set {variable}"


# ---- the cluster launcher


def prepared(config: dict) -> dict:
    util = pytest.importorskip("ray.autoscaler._private.util", reason="Ray is not installed")
    config = util.prepare_config(config)
    util.validate_config(config)
    return config


@pytest.mark.parametrize("name", LAUNCHER)
def test_the_launcher_takes_it(name):
    [config] = rendered(name)
    made = prepared(config)
    assert made["docker"]["image"] == IMAGE
    assert "--gpus=all" in made["docker"]["worker_run_options"]
    assert made["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    head, worker = made["head_start_ray_commands"][-1], made["worker_start_ray_commands"][-1]
    assert " --head " in head and "--autoscaling-config=~/ray_bootstrap_config.yaml" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert "--port=6379" in head
    misspelt = dict(config, head_start_ray_command=[])
    with pytest.raises(Exception, match="head_start_ray_command"):
        prepared(misspelt)


def test_on_premise_keeps_every_machine():
    made = prepared(rendered("on_premise.yaml")[0])
    [kind] = made["available_node_types"].values()
    assert kind["min_workers"] == kind["max_workers"] == len(made["provider"]["worker_ips"])


def test_aws_brings_gpus_and_lets_them_go():
    made = prepared(rendered("aws.yaml")[0])
    kinds = made["available_node_types"]
    gpu = kinds["gpu"]
    assert (gpu["min_workers"], gpu["max_workers"], gpu["resources"]["GPU"]) == (0, made["max_workers"], 1)
    assert kinds[made["head_node_type"]]["resources"] == {"CPU": 0}
    for kind in kinds.values():
        assert kind["node_config"]["ImageId"] == VALUES["AMI_ID"]
        assert kind["node_config"]["IamInstanceProfile"]["Arn"].startswith("arn:")


# ---- Kubernetes


def ray_object(name: str) -> dict:
    return next(d for d in rendered(f"kuberay/{name}") if d["apiVersion"] == "ray.io/v1")


def cluster_of(thing: dict) -> dict:
    return thing["spec"].get("rayClusterSpec", thing["spec"])


def groups(thing: dict) -> list[dict]:
    spec = cluster_of(thing)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


@pytest.mark.parametrize("name", KUBERAY)
def test_the_fields_are_those_of_kuberay(name):
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = yaml.safe_load((Path(__file__).parent / "kuberay_schema.yaml").read_text())
    thing = ray_object(name)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(thing, schema, jsonschema.Draft202012Validator)
    broken = copy.deepcopy(thing)
    cluster_of(broken)["workerGroupSpecs"][0]["minReplica"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema, jsonschema.Draft202012Validator)


@pytest.mark.parametrize("name", KUBERAY)
def test_the_pods_are_those_of_kubernetes(name):
    validator = pytest.importorskip("kubernetes_validate", reason="the extra `manifests` (17,000 files) is missing")
    version = validator.latest_version()
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}} | group["template"]
        for group in groups(ray_object(name))
    ]
    others = [d for d in rendered(f"kuberay/{name}") if d["apiVersion"] != "ray.io/v1"]
    for thing in pods + others:
        validator.validate(thing, version, strict=True)
    pods[0]["spec"]["containers"][0]["resource"] = {}
    with pytest.raises(validator.ValidationError, match="resource"):
        validator.validate(pods[0], version, strict=True)


@pytest.mark.parametrize("name", KUBERAY)
def test_ray_reads_the_resources_from_the_pods(name):
    """Ray's own translation of a RayCluster, which the autoscaler in the head pod runs."""
    derive = pytest.importorskip(
        "ray.autoscaler._private.kuberay.autoscaling_config", reason="Ray is not installed"
    )._derive_autoscaling_config_from_ray_cr
    thing = ray_object(name)
    made = derive({"metadata": {"name": "robocache", "namespace": "default"}, "spec": cluster_of(thing)})
    kinds = made["available_node_types"]
    assert kinds["headgroup"]["resources"]["CPU"] == 0  # no worker beside the driver
    assert "GPU" not in kinds["headgroup"]["resources"]
    gpu = kinds["gpu"]
    assert gpu["resources"] == {"CPU": 4, "GPU": 1, "memory": 16 * 2**30}
    assert (gpu["min_workers"], gpu["max_workers"]) == (0, 8)


@pytest.mark.parametrize("name", KUBERAY)
def test_the_cluster_is_closed_and_of_one_kind(name):
    thing = ray_object(name)
    assert cluster_of(thing)["authOptions"] == {"mode": "token"}
    assert cluster_of(thing)["rayVersion"] == pinned("ray")
    for group in groups(thing):
        [container] = group["template"]["spec"]["containers"]
        assert container["image"] == IMAGE
        assert container["resources"]["limits"] == container["resources"]["requests"]  # never evicted first
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in group["template"]["spec"]["volumes"]}
    [worker] = cluster_of(thing)["workerGroupSpecs"]
    assert worker["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_rayjob_runs_what_it_brings(monkeypatch):
    """Its script is in the image, its config is mounted where the driver runs, loads, and fits its own pods."""
    config_map, job = rendered("kuberay/rayjob.yaml")
    python, script, flag, config_path = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag) == ("python", "--config")
    assert (ROOT / in_image(script)).is_file()
    head, worker = groups(job)
    [container] = head["template"]["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [name] = [v["name"] for v in head["template"]["spec"]["volumes"] if "configMap" in v]
    assert mounts[name] == str(Path(config_path).parent)
    text = config_map["data"][Path(config_path).name]
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # as in a submitted job
    made = job_from_mapping(yaml.safe_load(text))
    assert made.cluster.mode == "ray"
    assert made.compute.require_extension and made.compute.device == "cuda"
    assert made.cluster.workers * made.cluster.gpus_per_worker == worker["maxReplicas"]
    assert {Path(uri).parts[1] for uri in (*made.input.uri, made.output.uri)} == {mounts["data"].strip("/")}
    asked = made.cluster.memory_mb or made.compute.max_memory_mb + 8 * made.output.shard_mb
    store = int(worker["rayStartParams"]["object-store-memory"])
    assert asked * 1e6 + store < 16 * 2**30


# ---- the image


def dockerfile() -> list[dict]:
    parse = pytest.importorskip("dockerfile_parse", reason="dockerfile-parse is not installed")
    with open(CLUSTER / "Dockerfile", "rb") as file:
        return parse.DockerfileParser(fileobj=file).structure


def copies() -> list[tuple[list[str], str]]:
    """Sources and target of each COPY out of the repository."""
    found = [shlex.split(s["value"]) for s in dockerfile() if s["instruction"] == "COPY"]
    return [(parts[:-1], parts[-1]) for parts in found if not parts[0].startswith("--from=")]


def in_image(path: str) -> Path:
    """Where the repository has what the image has at ``path``."""
    for sources, target in copies():
        if len(sources) == 1 and Path(path).is_relative_to(target):
            return Path(sources[0]) / Path(path).relative_to(target)
    raise AssertionError(f"{path} is not copied into the image")


def test_the_image_is_built_from_what_is_there():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert "*" in ignored
    sources = [source for sources, _ in copies() for source in sources]
    assert {"constraints.txt", "kernels", "robocache", "setup.py"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, f"{source} does not reach the build"


def test_what_is_installed_is_pinned_and_known():
    steps = dockerfile()
    installs = [s["value"] for s in steps if s["instruction"] == "RUN" and "pip install" in s["value"]]
    assert len(installs) == 2
    for command in installs:
        assert "pip install -c constraints.txt" in command
    project = (ROOT / "pyproject.toml").read_text()
    extras = re.search(r"\.whl\)\[([\w,]+)\]", installs[1])[1].split(",")
    assert extras == ["hdf5", "las", "ray", "s3"]
    for extra in extras:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), f"pyproject.toml has no extra {extra}"
    for package in ("torch", "ray", "s3fs", "boto3"):
        assert pinned(package)


def test_the_image_has_no_compiler_and_the_toolkit_of_ci():
    steps = dockerfile()
    bases = [s["value"] for s in steps if s["instruction"] == "FROM"]
    assert bases == ["nvidia/cuda:${CUDA}-devel-ubuntu24.04 AS build", "nvidia/cuda:${CUDA}-base-ubuntu24.04"]
    [cuda] = [s["value"] for s in steps if s["instruction"] == "ARG" and s["value"].startswith("CUDA=")]
    assert f"nvidia/cuda:{cuda[5:]}-devel-ubuntu24.04" in (ROOT / ".github/workflows/ci.yml").read_text()
    last = steps[max(i for i, s in enumerate(steps) if s["instruction"] == "FROM") :]
    installed = next(s["value"] for s in last if "apt-get install" in s["value"])
    assert not re.search(r"\b(g\+\+|gcc|clang|build-essential|cuda-nvcc|ninja)", installed)
    assert any("! command -v cc gcc c++ g++ nvcc" in s["value"] for s in last)
    environment = " ".join(s["value"] for s in last if s["instruction"] == "ENV")
    assert "RAY_AUTH_MODE=token" in environment
    assert "HOME=/home/ray" in environment
    assert [s["value"] for s in last if s["instruction"] == "USER"] == ["ray"]


# ---- the config that goes with them


def test_paths_of_a_cluster_are_absolute(monkeypatch):
    config = str(ROOT / "configs/cluster.yaml")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert load_job(config).input.uri == ("sample_logs/*.mcap",)  # its own cluster, on this machine
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ConfigError) as caught:
        load_job(config)
    places = [problem.removeprefix(f"{config}: ").split(": ")[0] for problem in caught.value.problems]
    assert places == ["input.uri", "output.uri"]
    assert "10.0.0.1:6379" in caught.value.problems[0]
    for base in ("/mnt", "s3://bucket", "file:///mnt"):
        load_job(config, [f"input.uri={base}/logs", f"output.uri={base}/out"])
    with pytest.raises(ConfigError, match="output"):
        load_job(config, ["input.uri=s3://bucket/logs", "output.uri=file://out"])
    load_job(config, ["cluster.address=local"])
    load_job(config, ["cluster.mode=local"])
