"""What the algorithms cost, beside fairseq's cross_entropy and beside plain implementations of the
same.

    python benchmarks/run.py [TABLE ...] [--quick] [--json FILE]        (or `make bench`, `make bench-quick`)
    python benchmarks/run.py --device cuda --json gpu.json              on a GPU, where nobody has run it yet

Every figure is a ratio, measured in alternation in one run: median, least and largest over the
rounds. Time is the processor's, of one thread, or by the clock on a GPU. Synthetic words by Zipf's
law; sentence lengths of real titles, in the batches that fairseq makes of them.
"""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
warnings.filterwarnings("ignore")
logging.disable(logging.INFO)

if "cuda" in sys.argv[1:]:  # of --device; before `measure` and what builds on it are imported
    os.environ["BENCHMARK_DEVICE"] = "cuda"

import torch  # noqa: E402
from baselines import CANDIDATES, drawing, engine, recomputing  # noqa: E402
from measure import Case, Figure, alternate, arithmetic, counts, environment, peaks, table, write  # noqa: E402
from workload import FROM_6_TO_25, LSTM, TRANSFORMER, Workload, only  # noqa: E402

from fairseq_erpo.family import FAMILY  # noqa: E402

POINTS = {
    "(.12, .16, .72)": "model=.12,reward=.16,data=.72",
    "(.24, .32, .44)": "model=.24,reward=.32,data=.44",
    "(.36, .48, .16)": "model=.36,reward=.48,data=.16",
    "(3/7, 4/7, 0)": "model=3/7,reward=4/7",
    "(0, .5, .5)": "reward=.5,data=.5",
}
PLAIN = "--erpo-preset paper --erpo-schedule constant"
FIRST, LAST = "(.12, .16, .72)", "(3/7, 4/7, 0)"
INTERP = {
    f"erpo_interp {point}": f"erpo_interp {PLAIN} --erpo-lambda {value}"
    for point, value in POINTS.items()
}
ROBUST = {
    f"erpo_interp {FIRST}, robust": "erpo_interp --erpo-preset robust --erpo-schedule constant"
}
STEPS = {"cross_entropy": "cross_entropy", "erpo_mle": "erpo_mle", **INTERP, **ROBUST}
# The family's other rows; sequence_tutor needs a prior model of its own.
ROWS = {"erpo_mle": "erpo_mle"} | {
    f"erpo_{name}": f"erpo_{name}" + " --erpo-preset robust" * ("erpo_preset" in row.flags)
    for name, row in FAMILY.items()
    if name not in {"mle", "interp", "sequence_tutor", "noising"}
}
# The same rewards and targets in each place that λ's data may come from; `prefix` is mixer_alike.
ROWS |= {
    f"erpo_interp, {layout}": f"erpo_interp --erpo-preset robust --erpo-layout {layout}"
    for layout in ("token", "sentence")
}

PACKAGES = ("torch", "fairseq-fixed", "sacrebleu", "rouge-score")

Tables = Iterator[tuple[str, dict[str, Figure], str]]  # title, figures, unit


@cache
def bucketed(model: str, quick: bool) -> Workload:
    """The workload of most tables: sentences of similar length, as fairseq batches them."""
    return Workload(model, 60 if quick else 180)


def steps(workload: Workload, flags: dict[str, str]) -> dict[str, Case]:
    return {case: workload.step(words) for case, words in flags.items()}


def training(quick: bool) -> Tables:
    """(a) A training step at five points of the schedule."""
    rounds = 3 if quick else 5
    some = {
        case: STEPS[case]
        for case in ("cross_entropy", "erpo_mle", f"erpo_interp {FIRST}", f"erpo_interp {LAST}")
    }
    workloads: list[tuple[str, Callable[[], Workload], dict[str, str]]] = [
        ("Transformer 3+3x256", partial(bucketed, TRANSFORMER, quick), STEPS),
        ("Transformer 3+3x256", partial(bucketed, TRANSFORMER, True), STEPS),  # a small batch
        ("LSTM 256", partial(bucketed, LSTM, quick), STEPS),
        (
            "Transformer 3+3x256, 6-25 words in one batch",
            partial(Workload, TRANSFORMER, 180, lengths=FROM_6_TO_25),
            some,
        ),
        (
            "Transformer 3+3x256, 73,197 words",
            partial(Workload, TRANSFORMER, 20, words=73_197, warm_up=10),
            some,
        ),
    ]
    for name, make, flags in workloads[: 1 if quick else None]:
        workload = make()
        yield (
            f"{name}: a training step, targets {workload.shape}",
            alternate(steps(workload, flags), rounds, name),
            "seconds",
        )


def rewards(quick: bool) -> Tables:
    """(b) ΔR of all tokens along a reference, against scoring every extension of every prefix anew."""
    batch = 64
    for reward in ("bleu", "rouge"):
        cases: dict[str, Case] = {"the engine": engine(reward, batch, 25)}
        cases |= {
            f"{library} anew, 1 of {batch} sentences": recomputing(library, 25)
            for library in CANDIDATES[reward]
        }
        found = alternate(cases, 2 if quick else 5, f"Δ{reward}")
        # The old way has no batch: what 64 sentences take is 64 times what one takes.
        for name in list(found)[1:]:
            whole = Figure(*(figure * batch for figure in found[name]))
            found[name.replace(f"1 of {batch}", f"{batch}")] = whole
        yield (
            f"Δ{reward.upper()} of all tokens at 25 steps, {batch} references of 25 words",
            found,
            "seconds",
        )
    lengths = {f"r = {r}": engine("bleu", batch, r, steps=10) for r in (10, 25, 50, 100)}
    yield (
        "ΔBLEU, 10 steps along references of r words",
        alternate(lengths, 5, "ΔBLEU by length"),
        "seconds",
    )


def sampler(quick: bool) -> Tables:
    """(c) The sampler, and the plain one, which asks for every sentence and every word at every
    step.
    """
    for name, model in (
        {"Transformer": TRANSFORMER, "LSTM": LSTM}.items()
        if not quick
        else [("Transformer", TRANSFORMER)]
    ):
        workload = bucketed(model, quick)
        for point in (FIRST, LAST):
            flags = f"erpo_interp {PLAIN} --erpo-lambda {POINTS[point]}"
            samplers = {
                "ours": drawing(workload, flags),
                "plain": drawing(workload, flags, plain=True),
            }
            yield (
                f"drawing a batch at {point}, {name}",
                alternate(samplers, 3 if quick else 5, "drawing"),
                "seconds",
            )


def scaling(quick: bool) -> Tables:
    """(d) A training step against the length of sentences and the size of the batch."""
    flags = {case: STEPS[case] for case in ("cross_entropy", f"erpo_interp {FIRST}")}
    # Equal numbers of words at every length, but for the first; then one length and ever larger
    # batches.
    sizes = (
        [(10, 30)]
        if quick
        else [(10, 60), (25, 60), (50, 30), (100, 15), (12, 8), (12, 32), (12, 128)]
    )
    for length, sentences in sizes:
        workload = Workload(TRANSFORMER, sentences, lengths=only(length), warm_up=15)
        found = alternate(steps(workload, flags), 3, f"{sentences} x {length}")
        yield f"{sentences} sentences of {length} words", found, "seconds"


def memory(quick: bool) -> Tables:
    """(e) What a training step needs at most, beyond the model and the libraries."""
    flags = STEPS if not quick else {case: STEPS[case] for case in list(STEPS)[:3]}
    yield "peak memory of a training step", peaks(steps(bucketed(TRANSFORMER, quick), flags)), "MB"


def family(quick: bool) -> Tables:
    """(f) The other rows."""
    if not quick:
        workload = bucketed(TRANSFORMER, True)
        yield (
            f"a training step of each row, targets {workload.shape}",
            alternate(steps(workload, ROWS), 3, "rows"),
            "seconds",
        )


def dispatched(quick: bool) -> Tables:
    """(g) Operations that a step dispatches, which on a GPU with a small model is most of its time."""
    workload = Workload(TRANSFORMER, 60, lengths=only(12))
    samplers = {f"erpo_interp {point}": INTERP[f"erpo_interp {point}"] for point in (FIRST, LAST)}
    rows = {} if quick else ROWS
    flags = {"cross_entropy": "cross_entropy"} | samplers | rows
    yield (
        f"operations of a training step, targets {workload.shape}",
        counts(steps(workload, flags)),
        "operations",
    )


def floors(quick: bool) -> Tables:
    """(h) Arithmetic that a step cannot do without: what lies above this ratio in the other tables
    is everything else.
    """
    workload = bucketed(TRANSFORMER, True)
    rows = {} if quick else {case: words for case, words in ROWS.items() if case != "erpo_mle"}
    yield (
        f"arithmetic of a training step, targets {workload.shape}",
        arithmetic(steps(workload, STEPS | rows)),
        "10^9",
    )
    if not quick:
        workload = bucketed(TRANSFORMER, quick)
        yield (
            f"arithmetic of a training step, targets {workload.shape}",
            arithmetic(steps(workload, STEPS)),
            "10^9",
        )


TABLES = {
    "training": training,
    "rewards": rewards,
    "sampler": sampler,
    "scaling": scaling,
    "memory": memory,
    "family": family,
    "operations": dispatched,
    "arithmetic": floors,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "tables", nargs="*", metavar="TABLE", help=f"some of {', '.join(TABLES)}; all without"
    )
    parser.add_argument(
        "--quick", action="store_true", help="a minute: fewer models, cases, sentences and rounds"
    )
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument(
        "--device", choices=["cpu", "cuda"], default="cpu", help="where to measure (default: cpu)"
    )
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error(
            "--device cuda: torch sees no GPU; `python -m fairseq_erpo doctor` says what it sees"
        )
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f"no table {', '.join(sorted(unknown))}; there are {', '.join(TABLES)}")
    torch.set_num_threads(1)
    print(*(f"{name}: {value}" for name, value in environment(*PACKAGES).items()), sep="\n")
    found: dict[str, dict[str, Figure]] = {}
    for name in args.tables or TABLES:
        for title, figures, unit in TABLES[name](args.quick):
            table(title, figures, unit)
            found[title] = figures
            if args.json:  # table by table, so that an interrupted run leaves what it has
                write(args.json, found, *PACKAGES)


if __name__ == "__main__":
    main()
