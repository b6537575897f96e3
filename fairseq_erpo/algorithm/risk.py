"""Minimum risk training: the expected reward over a set of candidates.

B sentences, S candidates of each, N = B·S sequences, T steps.
"""

import torch

from fairseq_erpo.algorithm.batch import Batch, Drawn, Expert
from fairseq_erpo.algorithm.layouts import Point


class Risk:
    """Minimum risk (Shen et al. 2016): the expected reward of a set of S candidates, whoever drew
    them, is raised.

        Σ_k q_k R_k, q_k = exp{s_k} / Σ_j exp{s_j}, s_k = log p(y_k) / |y_k|,
        ∂ = Σ_k q_k (R_k - R̄) ∂s_k with R̄ = Σ_k q_k R_k

    A candidate that occurs twice counts once. Each source weighs as many tokens as its candidates
    have, and the tokens of y_k weigh L̄/|y_k| of that besides, with L̄ the mean length, since s_k is
    a mean: shorter candidates more, longer ones less.
    """

    point = Point("log R_PG on a set", "1", "0")

    def __call__(self, batch: Batch, drawn: Drawn) -> Drawn:
        """Fill in w = S q (R - R̄) L̄ / |y|, with L̄ the mean length of the source's candidates."""
        sample, samples = drawn.sample, drawn.samples
        real = sample.origin.ne(Expert.NONE)
        tokens, reward, length = (
            part.unflatten(0, (-1, samples))
            for part in (sample.tokens, sample.reward, real.sum(1).float())
        )
        log_p = batch.model_log_p(sample, samples).sum(1).view_as(length)
        equal = tokens[:, :, None].eq(tokens[:, None]).all(3)
        again = equal.tril(-1).any(2)  # an earlier candidate is the same
        q = (log_p / length).masked_fill(again, -torch.inf).softmax(1)
        gain = (
            q * (reward - (q * reward).sum(1, keepdim=True)) * length.mean(1, keepdim=True) / length
        )
        weights = (samples * gain).flatten()[:, None] * real
        return drawn._replace(weights=weights, advantage=real)
