"""PPO as CleanRL writes it: one loop over tensors, autograd, Adam. A contender for `train_ppo`, not used elsewhere.

After cleanrl/ppo_continuous_action.py (Huang et al. 2022, MIT), written anew for environments that answer with arrays:
a normal action around the actor's output, advantages by GAE (arXiv:1506.02438), the clipped objective
(arXiv:1707.06347). An episode that is cut off counts as ended, as it does there.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.rl.contest import PPO, PpoSizes, SharedEnv


class ActorCritic(nn.Module):
    """Two networks of two tanh layers, and one deviation for all states."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.actor = nn.Sequential(*_layers(inputs, hidden, 0.01))
        self.critic = nn.Sequential(*_layers(inputs, hidden, 1.0))
        self.log_std = nn.Parameter(torch.zeros(1))

    def distribution(self, x: torch.Tensor) -> torch.distributions.Normal:
        """Of the action."""
        mean = self.actor(x).squeeze(-1)
        return torch.distributions.Normal(mean, self.log_std.exp().expand_as(mean), validate_args=False)

    def value(self, x: torch.Tensor) -> torch.Tensor:
        """What the critic expects."""
        return self.critic(x).squeeze(-1)


def _layers(inputs: int, hidden: int, last_gain: float) -> list[nn.Module]:
    widths = [(inputs, hidden, 2**0.5), (hidden, hidden, 2**0.5), (hidden, 1, last_gain)]
    layers: list[nn.Module] = []
    for before, after, gain in widths:
        layer = nn.Linear(before, after)
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
        layers += [layer, nn.Tanh()]
    return layers[:-1]


def train(
    env: SharedEnv,
    updates: int,
    *,
    sizes: PpoSizes = PPO,
    seed: int = 1,
    on_update: Callable[[float], None] | None = None,
) -> ActorCritic:
    """The networks after so many updates. `on_update` is given the mean reward of each rollout."""
    torch.manual_seed(seed)
    agent = ActorCritic(env.width, sizes.hidden)
    optimizer = torch.optim.Adam(agent.parameters(), lr=sizes.learning_rate, eps=1e-5, fused=True)
    shape = (sizes.rollout_steps, env.num_envs)
    observations = torch.zeros(*shape, env.width)
    actions, log_probs, rewards, ended, values = (torch.zeros(shape) for _ in range(5))
    now = torch.from_numpy(env.start(seed))
    for _ in range(updates):
        for t in range(sizes.rollout_steps):
            observations[t] = now
            with torch.no_grad():
                distribution = agent.distribution(now)
                actions[t] = distribution.sample()
                log_probs[t], values[t] = distribution.log_prob(actions[t]), agent.value(now)
            step = env.advance(actions[t].numpy())
            rewards[t] = torch.from_numpy(step.rewards)
            ended[t] = torch.from_numpy((step.is_terminated | step.is_truncated).astype(np.float32))
            now = torch.from_numpy(step.observations)
        with torch.no_grad():
            last = agent.value(now)
        advantages = advantages_of(rewards, values, ended, last, sizes)
        batch = [
            each.reshape(sizes.batch, *each.shape[2:])
            for each in (observations, actions, log_probs, advantages, advantages + values)
        ]
        for _ in range(sizes.epochs):
            for rows in torch.randperm(sizes.batch).split(sizes.minibatch):
                loss = loss_of(agent, [each[rows] for each in batch], sizes)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(agent.parameters(), sizes.max_grad_norm)
                optimizer.step()
        if on_update:
            on_update(float(rewards.mean()))
    return agent


def advantages_of(
    rewards: torch.Tensor, values: torch.Tensor, ended: torch.Tensor, last: torch.Tensor, sizes: PpoSizes
) -> torch.Tensor:
    """Generalised advantages, float32 [T, N]; `last` is the value after the last step."""
    advantages, carried, after = torch.zeros_like(rewards), torch.zeros_like(last), last
    for t in reversed(range(len(rewards))):
        error = rewards[t] + sizes.gamma * after * (1 - ended[t]) - values[t]
        carried = error + sizes.gamma * sizes.gae_lambda * (1 - ended[t]) * carried
        advantages[t], after = carried, values[t]
    return advantages


def loss_of(agent: ActorCritic, batch: list[torch.Tensor], sizes: PpoSizes) -> torch.Tensor:
    """The clipped objective and the critic's error, of one minibatch."""
    x, action, old_log_prob, gained, wanted = batch
    gained = (gained - gained.mean()) / (gained.std() + 1e-8)
    ratio = (agent.distribution(x).log_prob(action) - old_log_prob).exp()
    clipped = ratio.clamp(1 - sizes.clip, 1 + sizes.clip)
    policy_loss = -torch.min(gained * ratio, gained * clipped).mean()
    return policy_loss + sizes.value_weight * 0.5 * (agent.value(x) - wanted).square().mean()
