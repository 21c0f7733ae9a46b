"""The files in cluster/: valid where they will be read, one version of Ray, tokens on, nothing open, no secret."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
LAUNCHER = sorted((CLUSTER / "launcher").glob("*.yaml"))
SLURM = sorted((CLUSTER / "slurm").glob("*.sbatch"))
FILES = [path for path in sorted(CLUSTER.rglob("*")) if path.suffix in (".yaml", ".sbatch", ".py")]
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


def read(path: str) -> dict:
    return yaml.safe_load((CLUSTER / path).read_text())


def name(path: Path) -> str:
    return path.name


def test_all_of_them_are_looked_at():
    assert {path.name for path in [*LAUNCHER, *SLURM]} == {
        *("aws.yaml", "onprem.yaml", "distill.sbatch", "sweep.sbatch")
    }


@pytest.mark.parametrize("path", LAUNCHER, ids=name)
class TestLauncher:
    def test_ray_takes_it(self, path):
        validate_config(prepare_config(yaml.safe_load(path.read_text())))

    def test_ray_refuses_it_with_a_wrong_key(self, path):
        wrong = {**yaml.safe_load(path.read_text()), "idle_timeout_minute": 3}
        with pytest.raises(Exception, match="idle_timeout_minute"):
            validate_config(prepare_config(wrong))

    def test_every_start_asks_for_the_token_and_keeps_the_dashboard_at_home(self, path):
        config = yaml.safe_load(path.read_text())
        commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
        starts = [command for command in commands if "ray start" in command]
        assert len(starts) == 2
        assert all("export RAY_AUTH_MODE=token" in command for command in starts)
        assert "--dashboard-host=127.0.0.1" in starts[0]
        mounts = config["file_mounts"]
        assert [place for place in mounts if mounts[place] == place] == ["~/.ray/auth_token"]

    def test_the_version_is_checked_on_every_machine(self, path):
        setup = "\n".join(yaml.safe_load(path.read_text())["setup_commands"])
        assert f'ray.__version__ == "{RAY}"' in setup


def cluster_specs() -> dict[str, dict]:
    return {
        "raycluster": read("kuberay/raycluster.yaml")["spec"],
        "rayjob-distill": read("kuberay/rayjob-distill.yaml")["spec"]["rayClusterSpec"],
    }


class TestKubeRay:
    """What the CRDs ask for (ray.io/v1), and what raykd does."""

    def test_both_clusters_are_the_same(self):
        specs = cluster_specs()
        assert specs["raycluster"] == specs["rayjob-distill"]

    def test_version_and_token(self):
        spec = cluster_specs()["raycluster"]
        assert spec["rayVersion"] == RAY
        assert spec["authOptions"] == {"mode": "token"}
        images = re.findall(r"image: (\S+)", (CLUSTER / "kuberay/raycluster.yaml").read_text())
        assert len(images) == 3
        assert all(image.endswith(f"ray{RAY}") for image in images)

    def test_a_head_without_gpu_teachers_that_stay_and_students_on_spot(self):
        spec = cluster_specs()["raycluster"]
        head = spec["headGroupSpec"]
        assert head["rayStartParams"] == {"num-cpus": "0"}
        assert "nvidia.com/gpu" not in str(head)
        teachers, students = spec["workerGroupSpecs"]
        assert (teachers["groupName"], students["groupName"]) == ("teachers", "students")
        for group in (teachers, students):
            assert {"replicas", "minReplicas", "maxReplicas", "rayStartParams"} <= group.keys()
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            container = group["template"]["spec"]["containers"][0]
            assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert teachers["minReplicas"] >= 1
        assert "spot" in str(students["template"]["spec"]["tolerations"])
        assert "tolerations" not in teachers["template"]["spec"]

    def test_pods_are_locked_and_share_a_folder(self):
        spec = cluster_specs()["raycluster"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            container = pod["containers"][0]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]
            assert {volume["name"] for volume in pod["volumes"]} == {"shared", "shm"}
            home = {"name": "RAYKD_HOME", "value": "/shared/raykd"}
            assert home in container["env"]

    @pytest.mark.parametrize("job", ["distill", "sweep"])
    def test_jobs_can_be_repeated(self, job):
        document = read(f"kuberay/rayjob-{job}.yaml")
        assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayJob")
        spec = document["spec"]
        assert "--resume" in spec["entrypoint"]
        assert "--output /shared/" in spec["entrypoint"]
        assert spec["activeDeadlineSeconds"] > 0
        sent = yaml.safe_load(spec["runtimeEnvYAML"])
        assert sent["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"

    def test_a_job_on_a_standing_cluster_is_not_repeated_by_kuberay(self):
        spec = read("kuberay/rayjob-sweep.yaml")["spec"]
        assert spec["clusterSelector"] == {"ray.io/cluster": "raykd"}
        assert spec["backoffLimit"] == 0
        assert "shutdownAfterJobFinishes" not in spec

    def test_the_policy_covers_the_pods_and_opens_the_dashboard_alone(self):
        policy = read("kuberay/networkpolicy.yaml")["spec"]
        chosen = policy["podSelector"]["matchLabels"].items()
        spec = cluster_specs()["raycluster"]
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert chosen <= group["template"]["metadata"]["labels"].items()
        among_themselves, others = policy["ingress"]
        assert among_themselves == {"from": [{"podSelector": policy["podSelector"]}]}
        assert [port["port"] for port in others["ports"]] == [8265]
        assert all(who["podSelector"] for who in others["from"]), "nobody without a label"


@pytest.mark.parametrize("path", SLURM, ids=name)
class TestSlurm:
    def test_bash_takes_it(self, path):
        done = subprocess.run(["bash", "-n", str(path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def test_one_ray_for_the_length_of_the_job_with_its_own_token(self, path):
        text = path.read_text()
        job = re.search(r"-- python jobs/(\w+\.py) .*--resume$", text, re.MULTILINE)
        assert job is not None
        assert (ROOT / "jobs" / job[1]).is_file()
        assert "ray symmetric-run --address" in text
        assert "export RAY_AUTH_MODE=token" in text
        assert text.index("umask 077") < text.index("srun")
        assert "#SBATCH --exclusive" in text


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_open_and_no_secret_stands_here(path):
    text = path.read_text()
    assert "0.0.0" + ".0" not in text
    assert "RAY_AUTH_MODE=disabled" not in text
    inline = r"(?im)^\s*-?\s*\"?\w*(api_?key|token|secret|password)\"?\s*[:=]\s*[\"']?[\w+/-]{16,}"
    assert not re.search(inline, text)
    given = re.findall(r"name: (\w*(?:KEY|TOKEN|SECRET|PASSWORD)), value:", text)
    assert not given, "from a Kubernetes Secret instead"


def test_the_runtime_environment_is_one_that_submit_sends():
    from raykd.runtime.jobs import unknown_fields

    assert unknown_fields(read("runtime_env.yaml")) == []
