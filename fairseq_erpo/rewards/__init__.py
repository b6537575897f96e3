'''The task rewards by name, and how to add one.

A reward of your own is one file.  Put it into the directory that you give as `--user-dir`, whose
`__init__.py` says `import fairseq_erpo.tasks` and imports the file; its name is then a value of
`--erpo-reward`.  A complete one:

    """How many tokens the sentence shares with y*, repetitions counted as often as y* has them."""

    from typing import NamedTuple

    import torch
    from torch import Tensor

    from fairseq_erpo.rewards import Gains, Reference, Reward, register_reward


    class Shared(NamedTuple):
        keys: Tensor  # [B, R]: y*, -1 where nothing can match
        left: Tensor  # [B, R]: copies of y*_j that the prefix has not used
        count: Tensor  # [B]: tokens shared so far


    @register_reward("shared")
    class SharedTokens(Reward[Shared]):
        def start(self, reference: Reference) -> Shared:
            equal = reference.keys[:, :, None].eq(reference.keys[:, None, :])
            return Shared(reference.keys, equal.sum(2) * reference.matchable, torch.zeros_like(reference.length))

        def value(self, state: Shared) -> Tensor:
            return state.count.float()

        def gains(self, state: Shared) -> Gains:
            nothing = torch.zeros_like(state.count, dtype=torch.float32)
            return Gains(hit=state.left.gt(0).float(), miss=nothing, eos=nothing)

        def advance(self, state: Shared, token: Tensor, live: Tensor) -> Shared:
            used = state.keys.eq(token[:, None]) & state.left.gt(0) & live[:, None]
            return Shared(state.keys, state.left - used.long(), state.count + used.any(1))
'''

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from fairseq_erpo.rewards.base import Gains, Reference, Replay, Reward, any_equal, replay
from fairseq_erpo.rewards.bleu import Bleu
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu
from fairseq_erpo.rewards.edit import Edit
from fairseq_erpo.rewards.rouge import Rouge

__all__ = [
    "REWARDS",
    "Gains",
    "Reference",
    "Replay",
    "Reward",
    "any_equal",
    "make_reward",
    "register_reward",
    "replay",
]

REWARDS: dict[str, Callable[[], Reward[Any]]] = {
    "bleu": Bleu,
    "corpus_bleu": CorpusBleu,
    "rouge1": partial(Rouge, ngrams=(1,)),
    "rouge2": partial(Rouge, ngrams=(2,)),
    "rougeL": partial(Rouge, subsequence=True),
    "rouge": partial(Rouge, ngrams=(1, 2), subsequence=True),
    "edit": Edit,
}

RewardClass = TypeVar("RewardClass", bound=type[Reward[Any]])


def register_reward(name: str) -> Callable[[RewardClass], RewardClass]:
    """Class decorator: make a `Reward` that needs no arguments a value of `--erpo-reward`.

    Raises TypeError if the class is no Reward, ValueError if another class has the name.
    """

    def register(cls: RewardClass) -> RewardClass:
        if not (isinstance(cls, type) and issubclass(cls, Reward)):
            raise TypeError(
                f"reward {name!r} must be a subclass of fairseq_erpo.rewards.Reward, not {cls!r}"
            )
        # A user directory that is imported a second time registers its own class again.
        if name in REWARDS and origin(REWARDS[name]) != origin(cls):
            raise ValueError(f"reward {name!r} is registered already, by {REWARDS[name]!r}")
        REWARDS[name] = cls
        return cls

    return register


def make_reward(name: str, flag: str = "--erpo-reward") -> Reward[Any]:
    """The reward that `flag` names.  Raises ValueError if there is none."""
    if name not in REWARDS:
        raise ValueError(f"{flag} {name!r} is unknown; there are {', '.join(sorted(REWARDS))}")
    return REWARDS[name]()


def origin(factory: Callable[[], Reward[Any]]) -> tuple[str | None, str | None]:
    """Where a class was defined: equal for the same definition imported twice."""
    return getattr(factory, "__module__", None), getattr(factory, "__qualname__", None)
