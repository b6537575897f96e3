"""The training log in trl's names and in the family's, summed over micro-batches and ranks.

reward, reward_std, rewards/NAME/mean, completions/mean_length, completions/clipped_ratio,
frac_reward_zero_std                       as trl has them
lambda/model, from_model, delta_r/model    who drew, as λ says and as it came, and its mean ΔR
"""

from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import Drawn
from fairseq_erpo.algorithm.log_sums import EXPERTS, sums
from fairseq_erpo.mixture import NAMES, Mixture
from fairseq_erpo.vocabulary import Vocabulary


class DrawnLog:
    """Sums since the last line of the log."""

    def __init__(self, rewards: tuple[str, ...]) -> None:
        self.rewards = rewards
        self.sums: dict[str, Tensor] = {}

    def add(
        self,
        drawn: Drawn | None,
        target: Tensor,
        mixture: Mixture,
        vocabulary: Vocabulary,
        means: dict[str, Tensor],
    ) -> None:
        """One micro-batch; None: the data themselves.  The same keys, whatever was drawn.

        `means` are those of each of several rewards.
        """
        found = sums(drawn, target, mixture, vocabulary)
        zero = torch.zeros((), device=target.device)
        found["sentences"] = zero + len(target)
        for name in self.rewards:
            found[f"reward_{name}"] = means.get(name, zero) * found["drawn"]
        found |= {"groups": zero, "equal": zero}
        if drawn is not None and drawn.samples - drawn.with_data > 1:
            grouped = drawn.explored.reward.unflatten(0, (len(target), -1))
            found["groups"] = zero + len(grouped)
            found["equal"] = grouped.eq(grouped[:, :1]).all(1).sum()
        for name, value in found.items():
            value = torch.as_tensor(value, dtype=torch.float32, device=target.device)
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def figures(self, accelerator: Any) -> dict[str, float]:
        """What the line of the log says, over all ranks; begins anew."""
        if not self.sums:
            return {}
        names = sorted(self.sums)
        stacked = torch.stack([self.sums[name] for name in names])
        totals = accelerator.reduce(stacked, "sum").tolist()
        self.sums = {}
        return _figures(dict(zip(names, totals, strict=True)), self.rewards)


def _figures(total: dict[str, float], rewards: tuple[str, ...]) -> dict[str, float]:
    found = {f"lambda/{name}": total[f"lambda_{name}"] / total["sentences"] for name in NAMES}
    drawn, tokens = total["drawn"], total["drawn_tokens"]
    if not drawn:
        return found
    mean = total["reward"] / drawn
    found["reward"] = mean
    found["reward_std"] = max(total["reward_squared"] / drawn - mean * mean, 0) ** 0.5
    found |= {f"rewards/{name}/mean": total[f"reward_{name}"] / drawn for name in rewards}
    found["completions/mean_length"] = tokens / drawn
    found["completions/clipped_ratio"] = total["clipped"] / drawn
    found["in_reference"] = total["in_reference"] / max(total["words"], 1)
    if total["groups"]:
        found["frac_reward_zero_std"] = total["equal"] / total["groups"]
    for name in EXPERTS:
        by = total[f"z_{name}"]
        found[f"from_{name}"] = by / tokens
        if by:
            found[f"delta_r/{name}"] = total[f"dr_{name}"] / by
    return found
