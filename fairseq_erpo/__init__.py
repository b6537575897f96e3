"""Entropy-regularised policy optimisation for sequence prediction, as a fairseq plugin.

Everything in `__all__` can be imported from here, and is loaded when it is first used: importing
this package imports neither torch nor fairseq.  fairseq itself is imported by `register_row` only,
and by `fairseq_erpo.tasks`, which `--user-dir` loads.
"""

from importlib import import_module
from typing import Any

__version__ = "0.10.0"

_HOMES = {
    "mixture": ("Mixture",),
    "annealers": ("Annealer", "make_annealer"),
    "vocabulary": ("Vocabulary",),
    "rewards": (
        "REWARDS",
        "Gains",
        "Reference",
        "Reward",
        "make_reward",
        "register_reward",
        "replay",
    ),
    "algorithm.answers": ("StepDecoder",),
    "algorithm.batch": ("Batch", "Drawn", "Expert", "Sample", "previous_tokens"),
    "algorithm.estep": ("Candidates", "ExpertSettings", "InverseTemperature", "reward_log_weights"),
    "algorithm.layouts": ("draw_experts",),
    "algorithm.sampler": ("Sampler", "length_caps"),
    "algorithm.uniforms": ("Channel", "Draws"),
    "algorithm.schedule": ("Duration", "Schedule"),
    "family.flags": ("FLAGS", "PRESETS"),
    "family.resolve": ("resolve",),
    "family": ("FAMILY", "Row", "add_row"),
    "plugin.register": ("register_row",),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
