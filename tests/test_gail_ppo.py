"""GailPPO beside SB3's PPO, and its rollout by hand."""

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import assert_equal_bits
from gail_worlds import SHORT, demonstrations, settings, trained
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.nn.functional import softplus

from gail import checkpoints, demo_prefix, state
from gail.bc import negative_log_likelihood
from gail.build import build, pretrain
from gail.demo_prefix import make_venv
from gail.demos import Demonstrations
from gail.flags import parse_record
from gail.policies import ARCHITECTURE
from gail.ppo import GailPPO, Imitation, stack
from gail.reward_expert import picked
from gail.schedules import make_schedule
from gail.settings import PPOSettings
from gail.simulator import make_env


@pytest.fixture(scope="module")
def demos() -> Demonstrations:
    return demonstrations(trajectories=2).subsample(50)


def learnt(model: GailPPO) -> Mapping[str, Any]:
    """All that a run is, without how λ_data or the prefix came about."""
    return checkpoints.plain(state.capture(model))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "method",
    ["gail_interp", "gail_interp_reward", "gail_mixer", "gail_resets", "gail_annealed_loss"],
)
def test_no_data_is_gail(demos: Demonstrations, method: str) -> None:
    """λ_data ≡ 0: every bit of the state is plain GAIL's."""
    plain = trained(settings("gail"), demos)
    assert_equal_bits(learnt(trained(settings(method, schedule="0"), demos)), learnt(plain))


def test_data_changes_it(demos: Demonstrations) -> None:
    """The test above could not fail if the schedule had no effect."""
    first = [
        trained(settings(method, schedule="0.5"), demos).policy.state_dict()
        for method in ("gail", "gail_resets", "gail_interp")
    ]
    weights = [entry["action_net.weight"] for entry in first]
    assert all(not torch.equal(weights[i], weights[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(
    ("method", "steps", "envs"),
    [
        ("gail", 256, 2),
        ("gail_interp", 256, 2),
        ("expert", 256, 2),
        ("expert", 257, 1),
        ("gail", 66, 1),
    ],
)
def test_true_reward_is_ppo(demos: Demonstrations, method: str, steps: int, envs: int) -> None:
    """With the environment's reward and no data: SB3's PPO, to the last bit, over time limits and
    falls.

    Of 257 pairs the last minibatch has one, whose advantage has no deviation; of 66 it has two.
    """
    schedule = None if method == "expert" else "0"
    run = settings(method, env=SHORT, steps=steps, envs=envs, schedule=schedule, true_reward=True)
    mine = trained(run, demos if method != "expert" else None, iterations=3)
    gamma = run.ppo.gamma
    venv = VecNormalize(DummyVecEnv([lambda: Monitor(make_env(SHORT))] * envs), gamma=gamma)
    sizes = {"n_steps": steps // envs, "batch_size": 64, "n_epochs": 2}
    theirs = PPO(
        "MlpPolicy",
        venv,
        gamma=gamma,
        seed=1,
        policy_kwargs=dict(ARCHITECTURE),
        device="cpu",
        **sizes,
    )  # type: ignore[arg-type]
    theirs.learn(3 * steps)
    assert_equal_bits(mine.policy.state_dict(), theirs.policy.state_dict())
    mine_adam, theirs_adam = (model.policy.optimizer.state_dict() for model in (mine, theirs))
    theirs_adam["param_groups"][0]["foreach"] = True  # how it is computed, not what
    assert_equal_bits(mine_adam, theirs_adam)
    assert np.array_equal(mine.rollout_buffer.advantages, theirs.rollout_buffer.advantages)
    assert mine.reward_scale.rms.var == venv.ret_rms.var
    ends = [episode["l"] for episode in theirs.ep_info_buffer or ()]
    assert 7 in ends and min(ends) < 7  # both kinds of end have been there


@pytest.mark.parametrize(
    ("method", "changes", "ppo"),
    [
        # The last minibatch has one pair
        ("gail_interp", {"steps": 65, "envs": 1}, "batch_size=64,n_epochs=1"),
        # A quarter of it is no data row
        ("gail_interp", {"steps": 8, "envs": 1}, "batch_size=3,n_epochs=1"),
        ("gail_interp_reward", {"steps": 3, "envs": 1}, "batch_size=2,n_epochs=1"),
        ("gail_interp", {"steps": 2, "envs": 2, "pairs": 1}, "batch_size=2,n_epochs=1"),
        ("bc_gail", {"steps": 5, "envs": 1, "bc_steps": 2}, "batch_size=2,n_epochs=1"),
    ],
)
def test_batches_of_one_pair(method: str, changes: dict[str, Any], ppo: str) -> None:
    """What has one element has no deviation: policy and discriminator stay numbers, and so does
    what is logged.
    """
    demos = demonstrations(trajectories=1).subsample(1)
    small = parse_record(PPOSettings, PPOSettings(), ppo, "--ppo")
    middle = {"schedule": "0.5"} if method == "gail_interp" else {}
    model = build(settings(method, ppo=small, iterations=2, **middle, **changes), demos)
    if method == "bc_gail":
        pretrain(model, settings(method, **changes), demos)
    for _ in range(2):
        model.learn(model.n_steps * model.n_envs, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
    discriminator = model.imitation.discriminator
    assert discriminator is not None
    for part in (model.policy, discriminator):
        assert all(value.isfinite().all() for value in part.state_dict().values())
    assert np.isfinite([float(value) for value in model.logger.name_to_value.values()]).all()


def test_learning_again_is_ppo(demos: Demonstrations) -> None:
    """SB3's `learn` once more: going on, and from zero, when environments, sums of rewards and
    schedules begin anew.
    """
    rate, clip = (lambda left: 3e-4 * left), (lambda left: 0.01 + 0.02 * left)
    sizes = {
        "n_steps": 128,
        "batch_size": 64,
        "n_epochs": 2,
        "gamma": 0.995,
        "learning_rate": rate,
        "clip_range": clip,
    }
    common = sizes | {"seed": 1, "device": "cpu", "policy_kwargs": dict(ARCHITECTURE)}

    def learnt_again(model: PPO) -> Iterator[Any]:
        for steps, anew in ((512, True), (256, False), (512, True)):
            model.learn(steps, reset_num_timesteps=anew)
            yield copy.deepcopy(model.policy.state_dict()), model.num_timesteps

    mine = GailPPO("MlpPolicy", stack(make_venv(SHORT, 2), 128), **common)  # type: ignore[arg-type]
    row = settings("gail").row
    mine.attach(Imitation(row, make_schedule("none"), 1024, demos, None, "fixed", 1))
    ours = list(learnt_again(mine))
    env = DummyVecEnv([lambda: Monitor(make_env(SHORT))] * 2)
    theirs = PPO("MlpPolicy", VecNormalize(env, gamma=0.995), **common)  # type: ignore[arg-type]
    for (weights, steps), (expected, count) in zip(ours, learnt_again(theirs), strict=True):
        assert_equal_bits(weights, expected)
        assert steps == count
    assert mine.reward_scale.rms.var == theirs.env.ret_rms.var  # type: ignore[union-attr]


def test_learning_from_zero_begins_with_data(
    demos: Demonstrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the second time, when the environments were left without."""
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", 0.0)
    model = build(settings("gail_resets", iterations=1), demos)
    for _ in range(2):
        model.learn(256, log_interval=None)  # type: ignore[arg-type]
        model.anneal()
        assert model.lambda_data == 0
    first: list[float] = []
    monkeypatch.setattr(
        model, "collect_rollouts", lambda *_, **__: first.extend(model.recorder.get_attr("skipped"))
    )
    model.learn(256)
    assert min(first) > 0


@pytest.mark.parametrize(
    "argument",
    [
        {"target_kl": 0.01},
        {"clip_range_vf": 0.2},
        {"use_sde": True},
        {"normalize_advantage": False},
    ],
)
def test_what_the_update_does_not_know_is_refused(
    argument: dict[str, Any], demos: Demonstrations
) -> None:
    model = GailPPO(
        "MlpPolicy",
        stack(make_venv(SHORT, 2), 128),
        n_steps=128,
        batch_size=64,
        device="cpu",
        **argument,
    )
    row = settings("gail").row
    with pytest.raises(ValueError, match=next(iter(argument))):
        model.attach(Imitation(row, make_schedule("none"), 1024, demos, None, "fixed", 1))


class Watch(BaseCallback):
    """Keeps what SB3 sees of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.infos: list[list[dict[str, Any]]] = []

    def _on_step(self) -> bool:
        self.infos.append(self.locals["infos"])
        return True


@pytest.mark.parametrize("method", ["gail", "gail_resets"])
def test_rewards_and_advantages_by_hand(method: str) -> None:
    """Rewards are the new discriminator's, divided by the running deviation; γ V(s_T) at time
    limits only; GAE by its sum.

    Where an episode began with data, the time limit counts its steps, and is bootstrapped all the
    same.
    """
    demos = demonstrations(SHORT, 3)
    schedule = "0.5" if method == "gail_resets" else None
    model = build(settings(method, env=SHORT, schedule=schedule), demos)
    watch = Watch()
    model.n_epochs = 0  # train() leaves the policy as it was in the rollout
    model.learn(256, callback=watch, log_interval=None)
    buffer, recorder, discriminator = (
        model.rollout_buffer,
        model.recorder,
        model.imitation.discriminator,
    )
    assert discriminator is not None
    gamma, lam = model.gamma, model.gae_lambda
    steps, n_envs = recorder.rewards.shape
    expected = np.zeros((steps, n_envs))
    total, seen = np.zeros(n_envs), [0.0] * 0
    count, mean, var = 1e-4, 0.0, 1.0  # RunningMeanStd's beginning
    limits = falls = 0
    for t in range(steps):
        pair = (
            torch.as_tensor(x[t], dtype=torch.float32)
            for x in (recorder.observations, recorder.actions)
        )
        with torch.no_grad():
            reward = softplus(discriminator(*pair)).numpy()
        total = total * gamma + reward
        seen.extend(total)
        # Variance of all discounted sums so far, with RunningMeanStd's first guess of weight 1e-4
        # in it.
        all_of = np.array(seen)
        n = len(all_of)
        centre = (mean * count + all_of.sum()) / (count + n)
        spread = (count * (var + (mean - centre) ** 2) + ((all_of - centre) ** 2).sum()) / (
            count + n
        )
        expected[t] = np.clip(reward / np.sqrt(spread + 1e-8), -10, 10)
        for i, info in enumerate(watch.infos[t]):
            if recorder.dones[t, i]:
                total[i] = 0
                falls += not info["TimeLimit.truncated"]
            if info["TimeLimit.truncated"]:
                limits += 1
                with torch.no_grad():
                    last = torch.as_tensor(info["terminal_observation"][None], dtype=torch.float32)
                    expected[t, i] += gamma * model.policy.predict_values(last).item()
    assert limits and falls
    # float32 sums of a few hundred terms
    np.testing.assert_allclose(buffer.rewards, expected, rtol=1e-4, atol=1e-5)
    values = np.concatenate(
        [
            buffer.values,
            model.policy.predict_values(torch.as_tensor(model._last_obs)).detach().numpy().T,
        ]
    )
    alive = 1.0 - recorder.dones
    for i in range(n_envs):
        delta = expected[:, i] + gamma * alive[:, i] * values[1:, i] - values[:-1, i]
        advantage = [
            sum((gamma * lam) ** (k - t) * delta[k] * alive[t:k, i].prod() for k in range(t, steps))
            for t in range(steps)
        ]
        np.testing.assert_allclose(buffer.advantages[:, i], advantage, rtol=1e-3, atol=1e-3)


def test_the_recorder_saw_the_simulator(demos: Demonstrations) -> None:
    """Its actions, clipped, lead other environments through its raw observations, true rewards and
    ends.
    """
    wide = parse_record(
        PPOSettings, PPOSettings(), "batch_size=64,n_epochs=1,log_std_init=1.5", "--ppo"
    )
    model = trained(settings("gail", env=SHORT, ppo=wide), demos, iterations=1)
    recorder = model.recorder
    drawn = model.rollout_buffer.actions.reshape(2, 128, 1).swapaxes(
        0, 1
    )  # train() flattens the buffer, environment by environment
    assert np.abs(drawn).max() > 3 and np.array_equal(recorder.actions, drawn.clip(-3, 3))
    venv = make_venv(SHORT, 2)
    venv.seed(1)
    observations = venv.reset()
    for t in range(128):
        assert np.array_equal(observations, recorder.observations[t])
        observations, rewards, dones, _ = venv.step(recorder.actions[t])
        assert np.array_equal(rewards, recorder.rewards[t]) and np.array_equal(
            dones, recorder.dones[t]
        )


@pytest.mark.parametrize(
    ("method", "reached"), [("gail_interp", 250), ("gail_annealed_loss", 1000)]
)
def test_loss_is_weighted_by_lambda(demos: Demonstrations, method: str, reached: int) -> None:
    """(1 - λ_data) surrogate + λ_data NLL + values: parts measured one by one, on the pairs that
    prefixes reach.
    """
    run = settings(method, schedule="0.25")
    model = trained(run, demos, iterations=1)
    batches = model.data_batches()
    assert batches is not None and model.lambda_data == 0.25
    data, batch = next(batches), next(iter(model.rollout_buffer.get(64)))
    logged: dict[str, list[float]] = defaultdict(list)
    together = model.loss(batch, {"data": data}, logged).item()
    policy_only = model.loss(batch, {}, logged).item()
    values, log_p, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
    surrogate = model.surrogate(batch, log_p, logged).item()
    likelihood = negative_log_likelihood(model.policy, *data).item()
    assert policy_only == pytest.approx(
        surrogate + model.vf_coef * (values.flatten() - batch.returns).square().mean().item(),
        rel=1e-5,
    )
    assert together == pytest.approx(
        0.75 * surrogate + 0.25 * likelihood + (policy_only - surrogate), rel=1e-5
    )
    assert model.logger.name_to_value["train/data_pairs"] == (demos.index < reached).sum()


@pytest.mark.parametrize(("batch", "rows"), [(64, 16), (10, 2), (3, 1), (4096, 100)])
def test_a_minibatch_has_a_quarter_as_many_data_rows(
    demos: Demonstrations, batch: int, rows: int
) -> None:
    """Rounded down, at least one, and at most all; each row once in a minibatch."""
    small = parse_record(PPOSettings, PPOSettings(), f"batch_size={batch}", "--ppo")
    batches = build(settings("gail_annealed_loss", schedule="0.5", ppo=small), demos).data_batches()
    assert batches is not None
    observations, actions, weights = next(batches)
    assert len(observations) == len(actions) == len(weights) == rows
    assert len(observations.unique(dim=0)) == rows


def test_the_reward_expert_picks_by_the_discriminator(demos: Demonstrations) -> None:
    """Of actions that the policy proposes, in proportion to exp{logit of D}: the expectation under
    importance resampling.
    """
    model = trained(settings("gail"), demos, iterations=1)
    discriminator = model.imitation.discriminator
    assert discriminator is not None
    box = torch.tensor([-3.0]), torch.tensor([3.0])
    raw = torch.as_tensor(demos.observations[:1], dtype=torch.float32).repeat(20_000, 1)
    normalised = torch.as_tensor(model.normaliser.normalize_obs(raw.numpy()))
    with torch.no_grad():  # a discriminator that likes large actions
        discriminator.forward = lambda observations, actions: 2 * actions[:, 0]  # type: ignore[method-assign]
    mean = model.policy.get_distribution(normalised[:1]).distribution
    drawn = picked(
        model.policy, discriminator, normalised, raw, box, torch.Generator().manual_seed(1)
    )
    noise = (
        torch.randn(8, 200_000, generator=torch.Generator().manual_seed(2)) * mean.stddev.item()
        + mean.mean.item()
    )
    proposals = noise.clamp(-3, 3)
    expected = ((2 * proposals).softmax(0) * proposals).sum(0)
    assert drawn.shape == (20_000, 1) and drawn.min() >= -3 and drawn.max() <= 3
    # Four standard errors of 20,000 draws
    assert drawn.mean().item() == pytest.approx(expected.mean().item(), abs=0.03)
    assert expected.mean() > mean.mean.item() + 0.5


def test_the_reward_experts_picks_are_learnt_with_their_share(demos: Demonstrations) -> None:
    """λ_model surrogate + λ_data NLL + λ_reward NLL of the picks + values, at the middle of the
    path.
    """
    run = settings("gail_interp_reward", iterations=4)
    model = trained(run, demos, iterations=2)
    model.anneal()
    model.lambda_data, model.lambda_reward = 0.5, 0.25
    data, reward = model.data_batches(), model.reward_batches()
    assert data is not None and reward is not None
    parts = {"data": next(data), "reward": next(reward)}
    batch, logged = next(iter(model.rollout_buffer.get(64))), defaultdict(list)
    together, policy_only = (model.loss(batch, these, logged).item() for these in (parts, {}))
    _, log_p, _ = model.policy.evaluate_actions(batch.observations, batch.actions)
    surrogate = model.surrogate(batch, log_p, logged).item()
    nll = {
        name: negative_log_likelihood(model.policy, *pairs).item() for name, pairs in parts.items()
    }
    expected = 0.25 * surrogate + 0.5 * nll["data"] + 0.25 * nll["reward"] + policy_only - surrogate
    assert together == pytest.approx(expected, rel=1e-5)


def test_the_path_by_the_reward_has_the_data_of_the_straight_one() -> None:
    by_reward, straight = (make_schedule(name, until=0.5) for name in ("by_reward", "linear"))
    for done in (0, 0.1, 0.25, 0.4, 0.5, 1):
        assert by_reward(done).data == pytest.approx(straight(done).data, abs=1e-12)
    assert by_reward(0.25).reward == 0.25 and by_reward(0.5).reward == 0


def test_the_likelihood_of_data_leaves_the_deviation_alone(demos: Demonstrations) -> None:
    """Its mean learns; what is left of exploration is PPO's to say."""
    model = trained(settings("gail_interp", schedule="0.25"), demos, iterations=1)
    batches = model.data_batches()
    assert batches is not None
    data, batch = next(batches), next(iter(model.rollout_buffer.get(64)))
    model.lambda_data, model.ent_coef = 1.0, 0.0
    model.policy.zero_grad()
    model.loss(batch, {"data": data}, defaultdict(list)).backward()
    assert model.policy.log_std.grad is None or model.policy.log_std.grad.eq(0).all()
    assert model.policy.action_net.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("full", "counted"), [(0.0, False), (1.0, True)])
def test_episodes_with_data_are_no_statistics(
    demos: Demonstrations, monkeypatch: pytest.MonkeyPatch, full: float, counted: bool
) -> None:
    monkeypatch.setattr(demo_prefix, "FULL_EPISODES", full)
    model = trained(settings("gail_resets", schedule="0.5"), demos, iterations=1)
    assert model.recorder.dones.any()
    assert bool(model.ep_info_buffer) == counted


def test_subproc_is_dummy(demos: Demonstrations) -> None:
    """One process an environment draws and learns the same."""
    run = settings("gail_interp", iterations=2)
    here = trained(run, demos, iterations=1)
    there = trained(run, demos, iterations=1, subproc=True)
    try:
        assert_equal_bits(learnt(there), learnt(here))
    finally:
        there.recorder.close()


def test_sb3_save_and_load(demos: Demonstrations, tmp_path: Any) -> None:
    """A trained model is an SB3 model."""
    model = trained(settings("gail_interp"), demos, iterations=1)
    model.save(tmp_path / "model.zip")
    other = PPO.load(tmp_path / "model.zip", device="cpu")
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    assert np.array_equal(
        model.predict(observations, deterministic=True)[0],
        other.predict(observations, deterministic=True)[0],
    )
