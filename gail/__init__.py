"""Generative adversarial imitation whose episodes begin with demonstrations, fewer as training goes
on (section 5.3).

`python -m gail` lists the commands, docs/gail.md explains them.  Everything in `__all__` can be
imported from here, and is loaded when it is first used: importing this package imports neither
torch nor MuJoCo.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "demos": ("Demonstrations",),
    "demo_prefix": ("DemoPrefix", "PrefixSettings", "make_venv"),
    "discriminator": ("Discriminator", "DiscriminatorSettings"),
    "evaluate": ("Evaluator",),
    "methods": ("METHODS", "Method"),
    "policies": ("load_policy",),
    "ppo": ("GailPPO", "Imitation", "make_ppo", "stack"),
    "prefix_length": ("PREFIX_LENGTHS", "PrefixLength"),
    "run": ("train",),
    "schedules": ("make_schedule", "parse_schedule"),
    "settings": ("PPOSettings", "RunSettings"),
}
_HOME = {name: f"{__name__}.{module}" for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
