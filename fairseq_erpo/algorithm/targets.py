"""The target distribution of each position: the drawn token, or the reward expert's whole q
(Rao-Blackwell).

m positions that are not padding, R reference positions, V words, F words that are never drawn, K
named words.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.algorithm.estep import Candidates


class Targets(NamedTuple):
    """Weights of words: `uniform_weight` for every word, plus `weight[k]` for the word `ids[k]`.

    This sparse form is enough for a drawn token, for label smoothing and for the reward expert's
    whole distribution.
    """

    ids: Tensor  # [m, K] int64; a word may occur several times
    weight: Tensor  # [m, K]
    uniform_weight: Tensor | None = None  # [m]; None stands for 0


def hard_targets(log_p: Tensor, target: Tensor, smoothing: float) -> Targets:
    """The drawn token, label-smoothed as fairseq does it.  [m, V], [m] int64 -> Targets with
    K = 1
    """
    uniform = smoothing / (log_p.size(1) - 1)
    weight = log_p.new_full((len(target), 1), 1 - smoothing - uniform if smoothing else 1.0)
    return Targets(
        target[:, None], weight, torch.full_like(weight[:, 0], uniform) if smoothing else None
    )


def unsmoothed(hard: Targets, where: Tensor) -> Targets:
    """The drawn token alone `where` its weight is an advantage: a negative one would sharpen what
    smoothing is to flatten.

    Targets with K = 1, [m] bool -> Targets with K = 1
    """
    assert hard.uniform_weight is not None
    return Targets(
        hard.ids,
        hard.weight.masked_fill(where[:, None], 1),
        hard.uniform_weight.masked_fill(where, 0),
    )


def soft_targets(
    hard: Targets, where: Tensor, log_q: Tensor, sentence: Tensor, candidates: Candidates
) -> Targets:
    """The reward expert's whole distribution `where` it is learnt, Rao-Blackwell instead of its
    draw; `hard` elsewhere.

    [m] bool, [m, R + 2] `reward_log_q`, [m] int64 rows of `candidates` -> Targets with K = 1 + R +
    1 + F
    """
    owner = candidates.reference.owner
    counted = torch.cat([owner, torch.ones_like(owner[:, :1])], 1)[sentence]
    q = log_q.exp()
    # Of each word that is neither in y* nor EOS
    other = q[:, -1] / candidates.misses.clamp(min=1)[sentence]
    never = candidates.never.expand(len(other), -1)
    soft = torch.cat([(q[:, :-1] - other[:, None]) * counted, -other[:, None].expand_as(never)], 1)
    return Targets(
        ids=torch.cat([hard.ids, candidates.ids[sentence], never], 1),
        weight=torch.cat([hard.weight * ~where[:, None], soft * where[:, None]], 1),
        uniform_weight=torch.where(
            where, other, 0.0 if hard.uniform_weight is None else hard.uniform_weight
        ),
    )
