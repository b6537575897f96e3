"""docs/rows.md: presets, flags and every row's page, generated from FLAGS, PRESETS and FAMILY."""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence

from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.family.flags import FLAGS, PRESET_FLAGS, PRESETS
from fairseq_erpo.verbs import dashed

HEAD = """# Rows, presets and flags

Generated: `python -m fairseq_erpo family --markdown docs/rows.md`. Each row is the criterion
`erpo_<row>`; its flags follow `fairseq-train ... --criterion erpo_<row>`. `python -m fairseq_erpo
family ROW` prints the same in the terminal."""

NOTE = """(R, α, β) is the point of Eq. 2, q ∝ exp{(α log p_θ + R)/(α + β)}; λ = (model, reward,
data). y\\* is the reference, of r tokens, and g(y\\*) a noised copy of it. R_δ is 1 for y\\* and -∞
for every other sequence (Eq. 6); R_PG is the reward of policy gradient (Eq. 9). m is the number of
tokens from the data in front, T the sentence's length, k the number of the schedule's steps so far,
and ε the model's share."""


def markdown(family: Mapping[str, Row] = FAMILY) -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## The family",
        _overview(family),
        "## Presets",
        _presets(),
        "## Flags",
        _flags(family),
    ]
    return (
        "\n\n".join([*parts, "## The rows, one by one", *(_page(row) for row in family.values())])
        + "\n"
    )


def _overview(family: Mapping[str, Row]) -> str:
    lines = [[f"`erpo_{row.name}`", *row.point, row.source, row.layout] for row in family.values()]
    return f"{_table(['criterion', 'R', 'α', 'β', 'drawn from', 'layout'], lines)}\n\n{NOTE}"


def _presets() -> str:
    names = sorted(PRESET_FLAGS, key=list(FLAGS).index)
    lines = [
        [
            f"`{dashed(name)}`",
            *(str(values.get(name, FLAGS[name].default)) for values in PRESETS.values()),
        ]
        for name in names
    ]
    rows = ", ".join(f"`erpo_{row.name}`" for row in FAMILY.values() if "erpo_preset" in row.flags)
    default = FLAGS["erpo_preset"].default
    why = "[this page](choose.md) says when which"
    note = f"For {rows}: values for the flags left out. The default is `{default}`; {why}."
    return f"{note}\n\n{_table(['', *(f'`{name}`' for name in PRESETS)], lines)}"


def _flags(family: Mapping[str, Row]) -> str:
    def rows(name: str) -> str:
        found = [row.name for row in family.values() if name in row.flags]
        return (
            "all but `mle`"
            if len(found) == len(family) - 1 and "mle" not in found
            else _listed(found, len(family))
        )

    lines = [
        [
            f"`{dashed(name)}`",
            "-" if flag.default is None else f"`{flag.default}`",
            flag.help,
            rows(name),
        ]
        for name, flag in FLAGS.items()
    ]
    return _table(["flag", "default, but for presets and rows", "meaning", "rows"], lines)


def _listed(names: Sequence[str], most: int) -> str:
    return "all" if len(names) == most else ", ".join(f"`{name}`" for name in names)


def _page(row: Row) -> str:
    fixed = [
        f"`{dashed(name)} {value}`" for name, value in row.defaults.items() if name not in row.flags
    ]
    lines = [[f"`{dashed(name)}`", row.default_text(name)] for name in row.flags]
    parts = [f"### erpo_{row.name}", inspect.cleandoc(row.page), _table(["flag", "default"], lines)]
    return "\n\n".join([*parts, *([f"Fixed: {', '.join(fixed)}"] if fixed else [])])


def _table(titles: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    def cells(line: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |"

    def all_lines() -> Iterator[str]:
        yield cells(titles)
        yield "|" + " --- |" * len(titles)
        yield from map(cells, lines)

    return "\n".join(all_lines())
