"""Actions that an env's mask leaves out are never taken, and learning knows it."""

from collections import OrderedDict

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from mru_rl.agents import PPOConfig, R2D2Config, load, train
from mru_rl.agents.nets.networks import FORBIDDEN
from mru_rl.agents.ppo.trainer import PPOTrainer
from mru_rl.agents.r2d2.trainer import R2D2Trainer
from mru_rl.envs.wrappers import MaskFromInfo


class Masked(gymnasium.Env):
    """Of five actions some are there, others at every step; one that is not raises. The lowest that is there is paid."""

    def __init__(self, actions=None, none_at=None):
        self.action_space = actions or spaces.Discrete(5)
        self.sizes = [5] if isinstance(self.action_space, spaces.Discrete) else self.action_space.nvec.tolist()
        self.none_at = none_at
        count = sum(self.sizes)
        self.observation_space = spaces.Dict(
            {"observation": spaces.Box(-1, 1, (2,)), "action_mask": spaces.Box(0, 1, (count,), np.int8)}
        )

    def _obs(self):
        self.mask = [self.np_random.integers(2, size=n).astype(np.int8) for n in self.sizes]
        for part in self.mask:
            part[self.np_random.integers(len(part))] = 1
        if self.step_ == self.none_at:
            self.mask = [0 * part for part in self.mask]
        return {"observation": np.zeros(2, np.float32), "action_mask": np.concatenate(self.mask)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_ = 0
        return self._obs(), {}

    def step(self, action):
        chosen = np.atleast_1d(action)
        assert all(part[a] for part, a in zip(self.mask, chosen, strict=True)), f"{action} of {self.mask}"
        reward = float(all(part.argmax() == a for part, a in zip(self.mask, chosen, strict=True)))
        self.step_ += 1
        over = self.step_ >= 10
        obs = self._obs()
        if over:
            obs["action_mask"][:] = 0  # as many envs do at the end
        return obs, reward, over, False, {}


PARTS = spaces.MultiDiscrete([3, 2])


@pytest.mark.parametrize(
    ("algorithm", "actions"),
    [(PPOConfig, None), (R2D2Config, None), (PPOConfig, PARTS), (R2D2Config, PARTS)],
    ids=["ppo", "r2d2", "ppo, several parts", "r2d2, several parts"],
)
def test_no_action_that_is_not_there_is_ever_taken(algorithm, actions, tmp_path):
    env = lambda: Masked(actions)  # noqa: E731
    config = algorithm(env=env, steps=2_000, num_envs=4, segment=20, run_dir=tmp_path / "run", tensorboard=False)
    run = train(config, progress=False)
    found = run.evaluate(env=env, episodes=16, progress=False)
    assert found.episodes == 16
    if algorithm is PPOConfig:
        run.evaluate(env=env, episodes=16, sample=True, progress=False)


def test_learning_uses_the_mask(tmp_path):
    config = PPOConfig(
        env=Masked, steps=30_000, num_envs=16, segment=20, core="gru", run_dir=tmp_path / "run", tensorboard=False
    )
    run = train(config, progress=False)
    assert (
        run.evaluate(env=Masked, episodes=64, progress=False).return_mean > 9
    )  # of 10; any one that is there: about 5


@pytest.mark.parametrize("trainer", [PPOTrainer, R2D2Trainer])
def test_actions_that_are_not_there_have_probability_zero_and_the_least_value(trainer):
    config = (PPOConfig if trainer is PPOTrainer else R2D2Config)(env=Masked, num_envs=4, segment=20, steps=2_000)
    made = trainer(config)
    _, rollout = made.update()
    data, policy = rollout.data, made.policy
    out = policy(data["observation"], rollout.start_state, data["is_init"])
    allowed = policy.encoder.allowed(data["observation"])
    assert not allowed.all()
    assert torch.equal(out.params == FORBIDDEN, ~allowed)
    assert allowed.gather(-1, data["action"].unsqueeze(-1)).all()
    assert out.value.isfinite().all()
    assert out.value.abs().max() < 100


def test_a_mask_that_leaves_no_action_is_an_error_that_names_the_row():
    trainer = PPOTrainer(PPOConfig(env=lambda: Masked(none_at=3), num_envs=2, segment=20, steps=2_000))
    with pytest.raises(ValueError, match=r"an action_mask of Masked leaves no action, in row 0; the env must end"):
        trainer.update()


def test_an_agent_acts_within_the_mask_it_is_shown(tmp_path):
    run = train(PPOConfig(env=Masked, steps=400, num_envs=2, segment=20, run_dir=tmp_path / "run"), progress=False)
    agent, env = load(run), Masked()
    obs, _ = env.reset(seed=0)
    state, start = agent.initial_state(), True
    for _ in range(9):
        action, state = agent.act(obs, state, start, sample=True, generator=torch.Generator().manual_seed(0))
        assert obs["action_mask"][action] == 1
        obs, *_ = env.step(action)
        start = False


def test_a_mask_of_another_length_is_refused_before_anything_is_collected():
    class Short(Masked):
        def __init__(self):
            super().__init__()
            self.observation_space["action_mask"] = spaces.Box(0, 1, (4,), np.int8)

    with pytest.raises(ValueError, match=r"an action_mask has one number for each of 5 action.*has 4"):
        PPOTrainer(PPOConfig(env=Short, num_envs=2, segment=20))


class InInfo(gymnasium.Env):
    """Says in info which of four actions are there; one that is not raises."""

    observation_space = spaces.Discrete(3)

    def __init__(self, actions=None, forgets=False):
        self.action_space, self.forgets = actions or spaces.Discrete(4), forgets

    def _info(self):
        if isinstance(self.action_space, spaces.Dict):
            self.mask = {"b": np.array([1, 0]), "a": np.array([0, 1, 1])}  # not in the order of the space
        else:
            self.mask = self.np_random.integers(2, size=4).astype(np.int8)
            self.mask[self.np_random.integers(4)] = 1
        return {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return 0, self._info()

    def step(self, action):
        if isinstance(action, dict):
            assert action["b"] == 0
            assert action["a"] != 0
        else:
            assert self.mask[action], f"{action} of {self.mask}"
        self.t += 1
        over = self.t == 6
        return self.t % 3, 1.0, over, False, {} if over or (self.forgets and self.t == 3) else self._info()


NESTED = spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Discrete(2)})


@pytest.mark.parametrize("actions", [None, NESTED], ids=["one part", "a dict"])
@pytest.mark.parametrize("workers", ["sync", "process"])
def test_a_mask_in_info_is_kept_without_a_word_from_the_user(actions, workers):
    if workers == "process" and actions is not None:
        pytest.skip("one of the two is enough")
    config = PPOConfig(env=lambda: InInfo(actions), num_envs=2, segment=20, steps=400, workers=workers)
    trainer = PPOTrainer(config)
    for _ in range(3):
        trainer.update()
    assert trainer.steps == 120  # the env raises at an action that is not there
    trainer.collector.close()


def test_a_mask_that_is_missing_in_mid_episode_is_an_error():
    trainer = PPOTrainer(PPOConfig(env=lambda: InInfo(forgets=True), num_envs=2, segment=20, steps=400))
    with pytest.raises(RuntimeError, match=r'info\["action_mask"\] had 4 numbers after the first reset\(\), got none'):
        trainer.update()


def test_a_mask_that_comes_after_the_reset_is_refused_with_the_way_out():
    class Late(InInfo):
        def reset(self, *, seed=None, options=None):
            return super().reset(seed=seed)[0], {}

    trainer = PPOTrainer(PPOConfig(env=Late, num_envs=2, segment=20, steps=400))
    with pytest.raises(
        RuntimeError, match=r"an action mask in info must be there from reset\(\) on.*first one in step"
    ):
        trainer.update()


def test_a_vector_env_with_a_mask_in_info_is_refused_with_the_way_out():
    env = gymnasium.vector.SyncVectorEnv([InInfo] * 2)
    with pytest.raises(RuntimeError, match=r"an action mask of a vector env is shown in its obs.*function that makes"):
        PPOTrainer(PPOConfig(env=env, num_envs=2, segment=20))


def test_an_agent_takes_a_mask_beside_what_the_env_shows(tmp_path):
    config = PPOConfig(env=InInfo, steps=400, num_envs=2, segment=20, run_dir=tmp_path / "run", tensorboard=False)
    agent, env = load(train(config, progress=False)), InInfo()
    (obs, info), state, start = env.reset(seed=0), agent.initial_state(), True
    for _ in range(5):
        action, state = agent.act(obs, state, start, action_mask=info["action_mask"])
        obs, _, _, _, info = env.step(action)
        start = False
    with pytest.raises(ValueError, match="one obs or a batch of Dict"):
        agent.act(obs, state)


class Unsorted(gymnasium.Env):
    """A Dict of actions in an order of its own, and masks for them by name, which gymnasium sorts."""

    action_space = spaces.Dict(OrderedDict(move=spaces.Discrete(3), arm=spaces.Discrete(3)))
    masks = {"arm": np.array([0, 0, 1], np.int8), "move": np.array([1, 0, 0], np.int8)}  # noqa: RUF012
    observation_space = spaces.Dict(
        {"action_mask": spaces.Dict({name: spaces.MultiBinary(3) for name in masks}), "seen": spaces.Box(-1, 1, (1,))}
    )

    def _obs(self):
        return {"action_mask": self.masks, "seen": np.zeros(1, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._obs(), {}

    def step(self, action):
        assert (action["move"], action["arm"]) == (0, 2)
        return self._obs(), 1.0, True, False, {}


def test_masks_of_the_parts_of_an_action_are_matched_by_name(tmp_path):
    assert list(Unsorted.action_space.spaces) != list(Unsorted.observation_space["action_mask"].spaces)
    run = train(PPOConfig(env=Unsorted, steps=64, num_envs=2, segment=8, run_dir=tmp_path / "run"), progress=False)
    agent, env = load(run), Unsorted()
    action, _ = agent.act(env.reset()[0], agent.initial_state(), True)
    assert (action["move"], action["arm"]) == (0, 2)
    vector = gymnasium.vector.SyncVectorEnv([Unsorted] * 2)
    PPOTrainer(PPOConfig(env=vector, segment=8)).update()


def test_an_agent_that_is_shown_no_action_says_in_which_row(tmp_path):
    agent = load(
        train(PPOConfig(env=Masked, steps=64, num_envs=2, segment=8, run_dir=tmp_path / "run"), progress=False)
    )
    obs = {"observation": np.zeros((2, 2), np.float32), "action_mask": np.array([[0, 1, 0, 0, 0], [0] * 5], np.int8)}
    with pytest.raises(ValueError, match="an action_mask leaves no action, in row 1"):
        agent.act(obs, agent.initial_state(2), True)


class ManyInInfo(gymnasium.vector.VectorEnv):
    """Rows that show nothing, say in info that only action 1 is there, and reset in the step after their last."""

    metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}  # noqa: RUF012
    single_observation_space, single_action_space = spaces.Discrete(2), spaces.Discrete(3)

    def __init__(self, num_envs=1):
        self.num_envs = num_envs
        self.observation_space, self.action_space = spaces.MultiDiscrete([2]), spaces.MultiDiscrete([3])

    def reset(self, *, seed=None, options=None):
        self.t = -1
        return self._shown()

    def step(self, actions):
        assert (actions == 1).all()
        obs, info = self._shown()
        over = np.full(self.num_envs, self.t == 4)
        return obs, np.ones(self.num_envs), over, np.zeros_like(over), info

    def _shown(self):
        self.t = (self.t + 1) % 5
        return np.zeros(self.num_envs, np.int64), {"action_mask": np.tile([0, 1, 0], (self.num_envs, 1))}


def test_a_mask_in_the_info_of_a_vector_env_stepped_row_by_row_is_kept():
    gymnasium.register("test/ManyInInfo-v0", vector_entry_point=ManyInInfo)
    try:
        _, rollout = PPOTrainer(PPOConfig(env="test/ManyInInfo-v0", num_envs=2, segment=20)).update()
    finally:
        del gymnasium.registry["test/ManyInInfo-v0"]
    assert (rollout.data["action"] == 1).all()


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (
            np.array([-np.inf, 0.0, 0.0]),
            r"is 1 where there is an action and 0 where there is none, got \[-inf, 0.0, 0.0\]",
        ),
        ({"mvoe": np.ones(3)}, "has a part for each part of an action, arm, move, got one for 'mvoe'"),
    ],
)
def test_a_mask_in_info_that_means_something_else_is_refused(mask, said):
    parts = spaces.Dict(arm=spaces.Discrete(2), move=spaces.Discrete(3)) if isinstance(mask, dict) else None
    env = gymnasium.wrappers.TransformAction(
        gymnasium.make("CartPole-v1"), lambda action: 0, parts or spaces.Discrete(3)
    )
    env.reset = lambda **_: (np.zeros(4, np.float32), {"action_mask": mask})
    with pytest.raises(ValueError, match=said):
        MaskFromInfo(env)
