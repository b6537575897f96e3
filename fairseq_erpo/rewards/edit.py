"""Eq. 3 for the edit distance between a growing prefix and the nearest beginning of y*."""

from typing import NamedTuple

import torch
from torch import Tensor

from fairseq_erpo.rewards.base import Gains, Reference, Reward, any_equal


class Edits(NamedTuple):
    """A row of the Levenshtein table."""

    keys: Tensor  # [B, R] int64: Reference.keys
    first: Tensor  # [B, R] int64: Reference.first
    length: Tensor  # [B] int64: r
    distance: Tensor  # [B, R + 1] int64: D_t[j], edits from the prefix to y*_1:j

    def nearest(self) -> Tensor:
        """min_j D_t[j].  -> [B]

        Positions behind r need no mask: nothing matches there, so no y* that goes on so is nearer
        than y* itself.
        """
        return self.distance.amin(1)


class Edit(Reward[Edits]):
    """Φ(y_1:t) = -min_j lev(y_1:t, y*_1:j): optimal-completion distillation (Sabour et al. 2019) as
    a task reward.

    ΔR(w) is 0 for the tokens that follow a nearest beginning of y*, else -1.  ΔR(EOS) = min_j
    D_t[j] - D_t[r], what is still missing; Φ(∅) + ΣΔR = -lev(y, y*).

    Departs from the paper: it has no such reward.  ΔBLEU and ΔROUGE value all unclaimed tokens of
    y* alike one step after a wrong token; this one still points the way back.  UNK matches nothing:
    where it is all that follows, no token gains, and `auto:EPS` teaches all alike. Use subwords,
    which have no UNK.
    """

    def start(self, reference: Reference) -> Edits:
        keys = reference.keys
        steps = torch.arange(keys.size(1) + 1, device=keys.device)
        return Edits(keys, reference.first, reference.length, steps.repeat(keys.size(0), 1))

    def value(self, state: Edits) -> Tensor:
        return -state.nearest().float()

    def gains(self, state: Edits) -> Gains:
        nearest = state.nearest()
        follows = state.distance[:, :-1].eq(nearest[:, None]) & state.keys.ge(0)
        hit = any_equal(follows[:, None], state.first)[:, 0].float() - 1
        missing = state.distance.gather(1, state.length[:, None])[:, 0] - nearest
        return Gains(hit, torch.full_like(hit[:, 0], -1), -missing.float())

    def advance(self, state: Edits, token: Tensor, live: Tensor) -> Edits:
        distance = state.distance
        differs = state.keys.ne(token[:, None])
        # x_k deletes w or puts it in the place of y*_k; what remains is to insert y*_k+1..y*_j, one
        # edit each.
        replaced = torch.minimum(distance[:, 1:] + 1, distance[:, :-1] + differs)
        x = torch.cat([distance[:, :1] + 1, replaced], 1)
        position = torch.arange(distance.size(1), device=distance.device)
        moved = position + (x - position).cummin(1).values
        return state._replace(distance=torch.where(live[:, None], moved, distance))
