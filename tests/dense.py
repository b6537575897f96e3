"""The paper's distributions over the whole vocabulary, a line each: what the sparse code is
compared with.

N sentences, T steps, R reference positions, V words.
"""

from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.estep import Candidates
from fairseq_erpo.mixture import Mixture
from fairseq_erpo.rewards import Gains, Reference, Reward
from fairseq_erpo.vocabulary import Vocabulary


def log_q(log_p: Tensor, delta_r: Tensor, alpha: float, beta: float) -> Tensor:
    """Eq. 2 and 4: log q ∝ (α log p_θ + R) / (α + β), normalised over V.  [N, V], [N, V] ->
    [N, V]
    """
    # Words of zero probability have log p = -inf, and 0 · -inf would be nan.
    energy = delta_r if alpha == 0 else alpha * log_p + delta_r
    return (energy / (alpha + beta)).log_softmax(-1)


def mixture_q(mixture: Mixture, model: Tensor, reward: Tensor, y_t: Tensor) -> Tensor:
    """Algorithm 1: q = λ_model p_θ^c + λ_reward exp{c ΔR}/Z + λ_data [w = y*_t].  [N, V], [N, V],
    [N] -> [N, V]
    """
    q = mixture.model * model + mixture.reward * reward
    return q.scatter_add(1, y_t[:, None], torch.full_like(q[:, :1], mixture.data))


def dense_gains(gains: Gains, reference: Reference, vocabulary: Vocabulary) -> Tensor:
    """Eq. 3 of every word, -inf for words that must never be drawn.  -> [N, V]"""
    # Positions that hold one token write equal values, and those where nothing matches the miss.
    full = gains.miss[:, None].repeat(1, vocabulary.size).scatter(1, reference.tokens, gains.hit)
    full[:, vocabulary.eos] = gains.eos
    for never in vocabulary.never:
        full[:, never] = -torch.inf
    return full


def gains_along(
    reward: Reward[Any], reference: Reference, tokens: Tensor, vocabulary: Vocabulary
) -> Gains:
    """Eq. 3 of every prefix; the last prefix repeats behind the end.  -> hit [N, T, R], miss [N,
    T], eos [N, T]
    """
    state = reward.start(reference)
    live = torch.ones(len(tokens), dtype=torch.bool, device=tokens.device)
    steps = []
    for token in tokens.unbind(1):
        steps.append(reward.gains(state))
        live = live & token.ne(vocabulary.pad) & token.ne(vocabulary.eos)
        state = reward.advance(state, token, live)
    return Gains(*(torch.stack(column, 1) for column in zip(*steps, strict=True)))


def reward_q(log_weights: Tensor, candidates: Candidates, vocabulary: Vocabulary) -> Tensor:
    """Algorithm 1, z = reward, from `reward_log_weights`.  [N, R + 2] -> [N, V]"""
    share = log_weights.softmax(1)
    others = share[:, -1:] / candidates.misses.clamp(min=1)[:, None]
    q = others.repeat(1, vocabulary.size)
    q[:, list(vocabulary.never)] = 0
    owner = torch.where(candidates.reference.owner, candidates.reference.tokens, vocabulary.pad)
    q = q.scatter(1, owner, share[:, :-2])
    q[:, vocabulary.pad] = 0
    q[:, vocabulary.eos] = share[:, -2]
    return q


def model_q(log_p: Tensor, c: float, vocabulary: Vocabulary) -> Tensor:
    """Algorithm 1, z = model: p_θ^c over the drawable words.  [N, V] -> [N, V]"""
    log_p = c * log_p.float()
    log_p[:, list(vocabulary.never)] = -torch.inf
    return log_p.softmax(1)
