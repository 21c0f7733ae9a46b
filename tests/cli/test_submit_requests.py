"""`raykd submit`: what is wrong is said before anything is sent; what is sent has no secret in it."""

from __future__ import annotations

import os
import subprocess
from functools import partial

import pytest
import yaml

import raykd.cli.submitting
from raykd.cli import entry
from raykd.cli.submitting import make_request, unguarded
from raykd.errors import InputError

URL = "http://127.0.0.1:8265"
TOKEN = "b3" * 20
CLEAN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}


@pytest.fixture
def request_of(recipe):
    """A request as `raykd submit --address URL WORDS` makes it."""

    def make(*words, options=("--address", URL), environ=CLEAN):
        args = entry.parse(["submit", *map(str, options), *map(str, words)])
        return make_request(args, args.parse_job, environ)

    return make


@pytest.fixture
def job(request_of, tmp_path):
    return partial(request_of, "run", "recipe.yaml", "--output", tmp_path / "shared" / "run")


def test_the_command_is_the_same_as_here(job, tmp_path):
    request = job('objective={"labels": {"weight": 0.2}}', "seeds=2")
    run = tmp_path / "shared" / "run"
    assert request.entrypoint == (
        f"python -m raykd run recipe.yaml --output {run} "
        """'objective={"labels": {"weight": 0.2}}' seeds=2"""
    )
    assert request.address == URL
    assert request.resume.endswith("seeds=2 --resume")
    sent = request.runtime_env
    assert sent["working_dir"] == "."
    assert sent["env_vars"]["RAYKD_HOME"] == str(tmp_path / "shared" / ".raykd")
    assert sent["env_vars"]["RAY_JOB_STOP_SIGNAL"] == "SIGINT"


@pytest.mark.parametrize("name", ["cartpole", "pendulum", "lander"])
def test_recipes_whose_students_act_can_be_submitted(request_of, folder, name):
    request = request_of("run", name, "--output", "/shared/run", "seeds=1")
    assert request.entrypoint == f"python -m raykd run {name} --output /shared/run seeds=1"


def test_targets_are_kept_where_the_user_keeps_them(job, folder):
    assert job(environ={**CLEAN, "RAYKD_HOME": "/data/kept"}).runtime_env["env_vars"][
        "RAYKD_HOME"
    ] == ("/data/kept")
    relative = job(environ={**CLEAN, "RAYKD_HOME": "kept"}).runtime_env["env_vars"]["RAYKD_HOME"]
    assert relative.endswith("shared/.raykd"), "a relative one would lie in the job's own folder"
    (folder / "env.yaml").write_text("env_vars: {RAYKD_HOME: /else, MORE: '1'}\nexcludes: [big]")
    given = job(options=("--address", URL, "--runtime-env", "env.yaml")).runtime_env
    assert given["env_vars"]["RAYKD_HOME"] == "/else"
    assert given["env_vars"]["MORE"] == "1"
    assert given["excludes"][0] == "big"


@pytest.mark.parametrize("variable", ["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"])
def test_the_address_comes_from_the_environment(job, variable):
    request = job(options=(), environ={**CLEAN, variable: "https://head.example.org:8265/"})
    assert request.address == "https://head.example.org:8265"


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ([], ["COMMAND: none given"]),
        (["report", "runs/x"], ["COMMAND: found 'report'", "run, teachers, targets"]),
        (["run", "recipe.yaml"], ["--output: none given"]),
        (["run", "recipe.yaml", "--output", "runs/x"], ["--output: found runs/x"]),
        (["run", "recipe.yaml", "--output", "s3://bucket/x"], ["--output: found s3:", "mount"]),
        (["run", "--output", "/shared/x"], ["recipe: none given"]),
        (["run", "nowhere.yaml", "--output", "/shared/x"], ["nowhere.yaml"]),
        (["run", "recipe.yaml", "--output", "/shared/x", "train.epoch=3"], ["train.epoch"]),
        (
            ["run", "../recipe.yaml", "--output", "/shared/x"],
            ["recipe: ../recipe.yaml is outside"],
        ),
        (
            ["run", "recipe.yaml", "--output", "/shared/x", "--address", "auto"],
            ["--address: is among the job's own arguments"],
        ),
        (["targets", "prune", "recipe.yaml", "--output", "/x"], ["COMMAND: `targets prune`"]),
    ],
)
def test_wrong_jobs(request_of, recipe, words, keys):
    (recipe.parent.parent / "recipe.yaml").write_text(recipe.read_text())
    with pytest.raises(InputError) as refused:
        request_of(*words)
    for key in keys:
        assert key in str(refused.value)


def test_a_run_s_own_folder_needs_no_recipe(request_of):
    request = request_of("evaluate", "/shared/run")
    assert request.output.name == "run"
    assert request_of("run", "--resume", "--output", "/shared/run").entrypoint.endswith("/run")


@pytest.mark.parametrize(
    "address",
    ["", "auto", "127.0.0.1:6379", "ray://host:10001", "http://", "http://h:port", "ftp://h:1"],
)
def test_wrong_addresses(job, address):
    with pytest.raises(InputError, match="the dashboard of the head node, http://HOST:8265"):
        job(options=("--address", address) if address else ())


def test_a_token_is_there_where_one_is_to_be_sent(job, tmp_path):
    needed = {"RAY_AUTH_MODE": "token", "HOME": str(tmp_path)}
    with pytest.raises(InputError, match=r"\$RAY_AUTH_MODE: no token in .*\.ray/auth_token"):
        job(environ=needed)
    path = tmp_path / "token"
    with pytest.raises(InputError, match=r"\$RAY_AUTH_TOKEN_PATH: no token in "):
        job(environ={**needed, "RAY_AUTH_TOKEN_PATH": str(path)})
    path.write_text(TOKEN)
    assert TOKEN not in str(job(environ={**needed, "RAY_AUTH_TOKEN_PATH": str(path)}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "env_vars: {WANDB_API_KEY: abc}",
            "runtime_env.env_vars.WANDB_API_KEY: looks like a secret",
        ),
        ("env_vars: {hf_token: abc}", "runtime_env.env_vars.hf_token"),
        ("env_vars: {NAME: xx-canary-4711-xx}", r"\$MY_SECRET: its value is in"),
        ("env_var: {A: b}", "--runtime-env: env.yaml has keys unknown to Ray: env_var"),
        ("- a", "--runtime-env: env.yaml, or its env_vars, is not a mapping"),
        ("env_vars: [", "--runtime-env: env.yaml cannot be read"),
    ],
)
def test_wrong_runtime_environments(job, folder, text, message):
    (folder / "env.yaml").write_text(text)
    environ = {**CLEAN, "MY_SECRET": "canary-4711"}
    with pytest.raises(InputError, match=message) as refused:
        job(options=("--address", URL, "--runtime-env", "env.yaml"), environ=environ)
    assert "canary" not in str(refused.value)


def test_a_secret_in_the_command_is_refused_without_being_shown(job):
    with pytest.raises(InputError, match=r"\$WANDB_API_KEY: its value is in") as refused:
        job("tracking.wandb.entity=canary-4711", environ={**CLEAN, "WANDB_API_KEY": "canary-4711"})
    assert "canary" not in str(refused.value)


def test_who_is_warned():
    assert unguarded("http://head:8265", {})
    assert not unguarded("http://head:8265", {"RAY_AUTH_MODE": "token"})
    assert not unguarded("http://127.0.0.1:8265", {})
    assert not unguarded("http://[::1]:8265", {})


@pytest.mark.parametrize("words", [["run", "recipe.yaml", "--bogus"], ["run", "--output"]])
def test_arguments_that_the_job_would_not_take_are_exit_code_2(call, recipe, words):
    ended = call("submit", "--address", URL, *words)
    assert ended.code == 2
    assert "raykd run" in ended.err


def test_every_job_can_be_submitted_and_has_a_folder(folder):
    for name in raykd.cli.submitting.JOBS:
        job = entry.parse(["submit", name]).parse_job([name])
        assert {"output", "resume", "address", "words", "layers"} <= vars(job).keys()


def test_no_cluster_at_the_address_is_exit_code_2(call, recipe, tmp_path, monkeypatch):
    monkeypatch.setitem(os.environ, "RAY_API_SERVER_ADDRESS", "http://127.0.0.1:1")
    output = tmp_path / "run"
    ended = call("submit", "--address", "http://127.0.0.1:1", "run", recipe, "--output", output)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error  --address: no Ray dashboard answers")
    assert not output.exists()


@pytest.mark.parametrize(
    "name",
    [
        "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_SAS",
        "WANDB_APIKEY", "GITHUB_PAT", "SMTP_PASS", "PGPASSWORD", "PGPASSFILE_PASSPHRASE", "MYSQL_PWD", "DATABASE_URL", "REDIS_URL",
        "MONGODB_URI", "SENTRY_DSN", "CELERY_BROKER_URL",
    ],
)  # fmt: skip
def test_the_usual_names_of_secrets_are_refused(job, folder, name):
    """At 7d0af11 `PGPASSWORD`, `DATABASE_URL`, `*_PASS`, `*_PAT` and key ids were sent, with exit 0."""
    (folder / "env.yaml").write_text(f"env_vars: {{{name}: x}}")
    with pytest.raises(InputError, match=f"runtime_env.env_vars.{name}: looks like a secret"):
        job(options=("--address", URL, "--runtime-env", "env.yaml"))
    with pytest.raises(
        InputError, match=rf"\${name}: its value is in the command, the recipe"
    ) as no:
        job("tracking.wandb.entity=canary-4711", environ={**CLEAN, name: "canary-4711"})
    assert "canary" not in str(no.value)


@pytest.mark.parametrize("name", ["PWD", "PATH", "LANG", "COMPASS", "RAY_AUTH_MODE", "HTTP_URL"])
def test_other_names_are_none(job, folder, name):
    (folder / "env.yaml").write_text(f"env_vars: {{{name}: plain}}")
    made = job(
        "tracking.wandb.entity=canary-4711",
        options=("--address", URL, "--runtime-env", "env.yaml"),
        environ={**CLEAN, name: "canary-4711"},
    )
    assert made.runtime_env["env_vars"][name] == "plain"


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://me:canary@db.example.org/x",
        "Server=db;User=me;Password=canary;",
        "DefaultEndpointsProtocol=https;AccountKey=canary==",
        "AKIA" + "CANARY7890123456",
        "ghp_" + "canary" * 6,
    ],
)
def test_secrets_are_known_by_their_looks(job, folder, value):
    """In a forwarded variable, a URL of an index, the command, or the recipe: none was seen at 7d0af11."""
    environments = {
        "runtime_env.env_vars.PLAIN": {"env_vars": {"PLAIN": value}},
        "runtime_env.pip.0": {"pip": [value]},
    }
    for key, content in environments.items():
        (folder / "env.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match=f"{key}: looks like a secret") as no:
            job(options=("--address", URL, "--runtime-env", "env.yaml"))
        assert "canary" not in str(no.value).lower()
    with pytest.raises(InputError, match=r"tracking.wandb.entity: looks like a secret") as no:
        job(f"tracking.wandb.entity={value}")
    assert "COMMAND, word 5: looks like" in str(no.value)
    assert "canary" not in str(no.value).lower()


def sent_files(folder, request):
    """What Ray would send."""
    from ray._private.runtime_env.packaging import _get_excludes

    excluded = _get_excludes(folder, list(request.runtime_env["excludes"]))
    files = [path for path in folder.rglob("*") if path.is_file() and not excluded(path)]
    return {path.relative_to(folder).as_posix() for path in files}


def test_keys_and_what_git_ignores_are_not_sent(job, folder):
    """At 7d0af11 `.env` and keys were sent, and what a .gitignore above the folder names, too."""
    subprocess.run(["git", "init", "-q", str(folder.parent)], check=True)
    (folder.parent / ".gitignore").write_text("private/\n*.ckpt\n")
    secret = [
        ".env",
        ".env.local",
        "deep/.env",
        "tls.pem",
        "id_rsa",
        "id_ed25519.pub",
        ".netrc",
        ".ssh/config",
    ]
    ignored = ["private/notes.txt", "deep/a b[1].ckpt"]
    plain = ["model.py", "deep/data.csv", "environment.yaml"]
    for name in [*secret, *ignored, *plain]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    assert sent_files(folder, job()) == {*plain, "recipe.yaml"}
    (folder / "env.yaml").write_text("excludes: ['!.env', /model.py]")
    given = job(options=("--address", URL, "--runtime-env", "env.yaml"))
    assert sent_files(folder, given) == {*plain[1:], "recipe.yaml", "env.yaml"}
