"""A row of the family: an algorithm as data, checked when it is made."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fairseq_erpo.algorithm.draw import FromExperts, WholeSequences
from fairseq_erpo.algorithm.layouts import PRODUCT, Point
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.algorithm.weigh import PAYING, Weigh, by_targets
from fairseq_erpo.family.effect import check_effect
from fairseq_erpo.family.flags import FLAGS, PAID_BY, PRESET_FLAGS, PRESETS
from fairseq_erpo.family.resolve import resolve
from fairseq_erpo.rewards import REWARDS
from fairseq_erpo.verbs import dashed


@dataclass(frozen=True)
class Row:
    """An algorithm: how it draws, how it weighs, and the flags that mean something to it.

    Its point (R, α, β) of Eq. 2, its layout and where its tokens come from are derived from `draw`
    and `weigh`.  Raises ValueError for a row whose parts contradict each other.
    """

    name: str
    page: str  # paper, equation, what is annealed, what to watch, when to use it
    draw: WholeSequences | FromExperts
    weigh: Weigh
    flags: tuple[str, ...]  # keys of FLAGS
    # Of flags, where the row has its own; also of flags that it does not have
    defaults: Mapping[str, Any]

    def __post_init__(self) -> None:
        unknown = [name for name in (*self.flags, *self.defaults) if name not in FLAGS]
        if unknown:
            raise ValueError(f"row {self.name}: no such flag: {', '.join(unknown)}")
        if not self.name.isidentifier() or not self.page.strip():
            raise ValueError(f"row {self.name!r} needs an identifier as its name, and a page")
        settings = self.settings({})
        needs = {"α": "erpo_alpha", "τ": "erpo_tau"}
        missing = [
            flag
            for letter, flag in needs.items()
            if letter in (self.point.alpha, self.point.beta) and flag not in self.flags
        ]
        if missing:
            raise ValueError(
                f"row {self.name}: its point {self.point} needs the flag {', '.join(missing)}"
            )
        by_policy = self.weigh is not by_targets or settings.targets == "policy"
        if self.point.alpha == "1" and not by_policy:
            raise ValueError(
                f"row {self.name}: policy gradient needs erpo_targets policy, not "
                f"{settings.targets}"
            )

    @property
    def point(self) -> Point:
        """(R, α, β) of Eq. 2."""
        point = getattr(self.weigh, "point", None) or self._draw.point
        if point.alpha == "annealed" and "erpo_lambda" not in self.flags:
            return Point(
                point.reward.replace("R_δ → ", "") if self._end.data == 0 else point.reward,
                "fixed",
                "fixed",
            )
        return point

    @property
    def layout(self) -> str:
        """Where in the sentence each expert draws."""
        return self._draw.text

    @property
    def source(self) -> str:
        """(λ_model, λ_reward, λ_data) that tokens are drawn from."""
        if "λ" in self._draw.source and "erpo_lambda" not in self.flags:
            return f"({self._end.model:g}, {self._end.reward:g}, {self._end.data:g})"
        return self._draw.source

    @property
    def _draw(self) -> WholeSequences | FromExperts:
        return (
            self.draw.resolved(self.settings({}))
            if isinstance(self.draw, FromExperts)
            else self.draw
        )

    @property
    def _end(self) -> Any:
        return self.settings({}).schedule.annealer.end

    def settings(self, typed: Mapping[str, Any], metric: str | None = None) -> Settings:
        """The row's flags, resolved: what was typed, else the row's own default, else the preset's,
        else the flag's.  `metric` is what --erpo-reward metric stands for, a key of PAID_BY.

        Raises ValueError naming the flag.
        """
        typed = {name: value for name, value in typed.items() if value is not None}
        if "erpo_bang_bang" in typed and "erpo_alpha" in typed:
            raise ValueError(
                "--erpo-bang-bang sets the reward's weight itself: leave --erpo-alpha out"
            )
        given = self._given(typed)
        try:
            settings = resolve(given, metric)
        except ValueError as error:
            values = PRESETS.get(str(given.get("erpo_preset")), {}).items()
            own = [
                dashed(name)
                for name, value in values
                if f"{dashed(name)} {value}" in str(error) and name not in given
            ]
            supplied = ", ".join(own)
            raise ValueError(
                f"{error} (--erpo-preset {given['erpo_preset']} sets {supplied})"
                if supplied
                else error
            ) from None
        if isinstance(settings.reward, str) and self.draw == FromExperts(PRODUCT):
            raise ValueError(
                f"--erpo-reward {settings.reward} has no ΔR to draw by: use one of "
                f"{', '.join(REWARDS)}"
            )
        check_effect(self.flags, typed, settings)
        return settings

    def _given(self, typed: Mapping[str, Any]) -> dict[str, Any]:
        """The flags that are typed, and the row's own."""
        preset = {"erpo_preset": FLAGS["erpo_preset"].default}
        return {**(preset if "erpo_preset" in self.flags else {}), **self.defaults, **typed}

    def spelt(self, typed: Mapping[str, Any], metric: str | None) -> str:
        """The flags that decide how the row trains, as one would type them: the preset's, the row's
        own and the typed ones.
        """
        given = self._given({name: value for name, value in typed.items() if value is not None})
        values = {**PRESETS.get(given.get("erpo_preset", ""), {}), **given}
        if values.get("erpo_reward") == "metric":
            values["erpo_reward"] = PAID_BY[metric]
        return " ".join(f"{dashed(name)} {values[name]}" for name in self.flags if name in values)

    def only_logs_reward(self, settings: Settings) -> bool:
        """Whether --erpo-reward changes nothing but the log: another reward teaches, and no sample
        of the model is paid.
        """
        pays = settings.targets in PAYING or self.weigh is not by_targets
        return settings.reward is not settings.teacher and not pays

    def default_text(self, flag: str) -> str:
        """A flag's default, as --help and the pages print it."""
        if "erpo_preset" in self.flags and flag in PRESET_FLAGS and flag not in self.defaults:
            return "the preset's"
        value = self.defaults.get(flag, FLAGS[flag].default)
        return "-" if value is None else str(value)


FAMILY: dict[str, Row] = {}


def add_row(row: Row) -> Row:
    """Enter a row in the table.  Raises ValueError if another row has its name."""
    if FAMILY.setdefault(row.name, row) != row:
        raise ValueError(f"the family has a row {row.name!r} already")
    return row
