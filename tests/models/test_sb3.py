"""Policies of Stable-Baselines3: what its own `predict` does, from weights and plain text alone."""

from __future__ import annotations

import base64
import io
import json
import zipfile

import gymnasium
import numpy as np
import pytest
import torch

from raykd.config.models import Sb3Model
from raykd.errors import InputError
from raykd.models import build_model
from raykd.testing.payloads import pickles

sb3 = pytest.importorskip("stable_baselines3")
CART, PENDULUM = "CartPole-v1", "Pendulum-v1"


def saved(path, algorithm, environment, **more):
    model = getattr(sb3, algorithm)("MlpPolicy", environment, device="cpu", seed=1, **more)
    model.save(path)
    return model


def built(path, observations=4, outputs=2, weights=None, **more):
    spec = Sb3Model(path=str(path), **more)
    return build_model(
        spec,
        input_shape=(observations,),
        classes=outputs,
        key="teachers.one.model",
        weights=weights,
    )


def states(environment, count=50):
    space = gymnasium.make(environment).observation_space
    drawn = np.random.default_rng(0).normal(size=(count, *space.shape))
    return drawn.astype(np.float32)


@pytest.mark.parametrize(
    ("algorithm", "environment", "more"),
    [
        ("PPO", CART, {}),
        ("PPO", CART, {"policy_kwargs": {"net_arch": [16, 8, 4], "activation_fn": torch.nn.ReLU}}),
        ("A2C", CART, {}),
        ("DQN", CART, {}),
        ("PPO", PENDULUM, {}),
        ("SAC", PENDULUM, {"policy_kwargs": {"net_arch": [32, 16]}}),
        ("TD3", PENDULUM, {"policy_kwargs": {"net_arch": [32, 16]}}),
    ],
)
def test_actions_are_those_of_its_own_predict(tmp_path, algorithm, environment, more):
    path = tmp_path / "policy.zip"
    theirs = saved(path, algorithm, environment, **more)
    seen = states(environment)
    wanted, _ = theirs.predict(seen, deterministic=True)
    policy = built(path, seen.shape[1])
    with torch.inference_mode():
        said = policy(torch.from_numpy(seen)).numpy()
        again = built(tmp_path / "gone.zip", seen.shape[1], weights=policy.state_dict())(
            torch.from_numpy(seen)
        ).numpy()
    np.testing.assert_array_equal(said, again, err_msg="its weights alone make it again")
    if environment == CART:
        np.testing.assert_array_equal(said.argmax(1), wanted)
    else:
        np.testing.assert_allclose(said[:, :1].clip(-2, 2), wanted, atol=2e-6)
        assert np.isfinite(said).all()


def test_statistics_of_vecnormalize_are_read_from_arrays(tmp_path):
    path, file = tmp_path / "policy.zip", tmp_path / "statistics.npz"
    theirs = saved(path, "PPO", CART)
    mean, var = np.array([1, 2, 3, 4.0]), np.array([1, 4, 9, 0.5])
    np.savez(file, mean=mean, var=var, clip=2.0)
    seen = 5 * states(CART)
    normal = ((seen - mean) / np.sqrt(var + 1e-8)).clip(-2, 2).astype(np.float32)
    wanted, _ = theirs.predict(normal, deterministic=True)
    said = built(path, normalise=str(file))(torch.from_numpy(seen)).argmax(1).numpy()
    np.testing.assert_array_equal(said, wanted)
    np.savez(file, mean=mean[:3], var=var)
    with pytest.raises(InputError, match=r"model.normalise: .*has \[3\] as 'mean'; \[4\]"):
        built(path, normalise=str(file))


def test_pickles_in_a_file_run_nothing(tmp_path):
    path = tmp_path / "policy.zip"
    saved(path, "PPO", CART)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    canary = tmp_path / "canary"
    for name, bad in pickles(canary).items():
        forged = tmp_path / "forged.zip"
        with zipfile.ZipFile(forged, "w") as archive:
            for one, content in {**members, "policy.pth": bad}.items():
                archive.writestr(one, content)
        with pytest.raises(InputError, match="nothing is unpickled"):
            built(forged)
        assert not canary.exists(), name
    fields = json.loads(members["data"])
    for bad in pickles(canary).values():
        for value in fields.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = base64.b64encode(bad).decode()
        with zipfile.ZipFile(forged, "w") as archive:
            for one, content in {**members, "data": json.dumps(fields).encode()}.items():
                archive.writestr(one, content)
        built(forged)
        assert not canary.exists(), "pickles beside plain fields are not looked at"


def test_what_does_not_fit_is_one_clear_error(tmp_path):
    path = tmp_path / "policy.zip"
    saved(path, "PPO", CART)
    with pytest.raises(
        InputError, match="sees observations of 4 numbers, this environment shows 6"
    ):
        built(path, 6)
    with pytest.raises(InputError, match="puts out 2 numbers, this environment's actions need 3"):
        built(path, 4, 3)
    with pytest.raises(InputError, match="there is no file"):
        built(tmp_path / "none.zip")
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"PK no zip")
    with pytest.raises(InputError, match="cannot be read"):
        built(broken)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("data", "{}")
    with pytest.raises(InputError, match=r"has no policy\.pth"):
        built(broken)
    held = io.BytesIO()
    torch.save({"features.weight": torch.zeros(2, 2)}, held)
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", held.getvalue())
    with pytest.raises(
        InputError, match=r"not known \(its weights: features.weight.*PPO, A2C, DQN, SAC and TD3"
    ):
        built(broken)
