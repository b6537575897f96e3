"""All rows of a table, for several seeds, from one MLE checkpoint a seed: train, decode, print.
The rows are in recipes.py.

    python examples/table.py translation --profile laptop --rows mle,raml,interp --seeds 3 --data
    text.de text.en

Killed and started again, it goes on where it was; what is done is left alone.  What was begun with
other settings starts afresh; what was finished with other settings is removed after --force only.

With --try, given as often as one likes, every row has equally many trials: each of the flags, by
the first seed, judged by beam search on the validation set.  All seeds then run with the best, and
only these are decoded on the test set.
"""

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import corpus
from recipes import ROWS, TASKS, Profile, Task, flags_of, profile_of
from stages import LOG, ROOT, Local, Runner, Stage, slurm_worker

from fairseq_erpo.files import lock, read_json, reason_of
from fairseq_erpo.verbs import OneLineParser, Option, add_options

PRETRAIN = "pretrain"
# With fairseq's default of 8, the last batch of 1-7 sentences, the longest of the corpus, is
# dropped without a word.
COMMON = (
    "--user-dir fairseq_erpo --task erpo_translation --num-workers 0 "
    "--required-batch-size-multiple 1 --no-epoch-checkpoints --maximize-best-checkpoint-metric "
    "--log-format json --log-interval 50"
)
GREEDY = """--eval-bleu-args '{"beam": 1, "max_len_a": 1.2, "max_len_b": 10}'"""


@dataclass(frozen=True)
class Plan:
    """What to run, where."""

    task: Task
    profile: Profile
    folder: Path
    data: Path
    # Name -> (row of the family, flags); NAME.K is NAME with the K-th --try
    rows: dict[str, tuple[str, str]]
    seeds: Sequence[int]
    one_start: bool = False  # all seeds continue the first one's MLE model
    split: str = "test"

    @property
    def corpus(self) -> dict[str, Any]:
        """corpus.json; before there is one, what the profile would make of its task's text."""
        file = ROOT / self.data / "corpus.json"
        if file.is_file():
            return corpus.corpus_of(file)
        pieces = self.profile.selection.pieces
        return {
            "digest": "",
            "languages": self.task.languages,
            "selection": {"pieces": pieces},
            "moses": False,
        }

    def training(
        self,
        name: str,
        row: str,
        seed: int,
        rate: str,
        epochs: int,
        flags: str = "",
        after: Stage | None = None,
    ) -> Stage:
        """fairseq-train for one row and seed."""
        task, profile, folder = self.task, self.profile, self.folder / name
        pieces = self.corpus["selection"]["pieces"]
        spelling = "--eval-bleu-remove-bpe sentencepiece" if pieces else ""
        selection = f"{task.validate} {GREEDY} {spelling} --best-checkpoint-metric {task.metric}"
        options = (
            f"{COMMON} --criterion erpo_{row} --seed {seed} {profile.model} {profile.optimiser} "
            f"{rate} {selection} {flags}"
        )
        command = ["fairseq-train", str(self.data / "bin"), *shlex.split(options)]
        command += ["--save-dir", str(folder), "--log-file", str(folder / LOG)]
        command += ["--max-epoch", str(epochs)]
        if after:
            best = self.folder / after.name / "checkpoint_best.pt"
            command += ["--finetune-from-model", str(best)]
        digest = self.corpus["digest"]
        return Stage(name, tuple(command), (after,) if after else (), digest, epochs)

    def start(self, seed: int) -> Stage:
        """MLE, or the model that the profile brings along."""
        seed = self.seeds[0] if self.one_start else seed
        profile, name = self.profile, f"{PRETRAIN}-{seed}"
        if not profile.start:
            return self.training(name, "mle", seed, profile.pretrain, profile.pretrain_epochs)
        script, folder = f"examples/{profile.start}", str(self.folder / name)
        # The model is data too: a later version of the project may bring another one.
        weights = corpus.EXAMPLES / profile.selection.given / "checkpoint.pt"
        digest = f"{self.corpus['digest']} {corpus.digest_of([weights], {})}"
        return Stage(name, ("python", script, "unpack", folder, str(self.data)), (), digest)

    def more(self, name: str, seed: int, start: Stage) -> Stage:
        """One of the plan's rows, which goes on from the start."""
        row, flags = self.rows[name]
        rate, epochs = self.profile.more, self.profile.more_epochs
        return self.training(f"{name}-{seed}", row, seed, rate, epochs, flags, start)

    def evaluation(self, systems: Sequence[str]) -> list[str]:
        """`python -m fairseq_erpo evaluate` on the plan's split."""
        reference = self.data / f"{self.split}.{self.corpus['languages'][1]}"
        words = ["-m", "fairseq_erpo", "evaluate", *systems, "--reference", str(reference)]
        words += ["--greedy"] if self.split == "test" else ["--split", self.split]
        words += ["--columns", self.task.columns]
        return [*words, "--tokenize", "none"] if self.corpus["moses"] else words

    def stages(self) -> list[Stage]:
        """In an order in which all can be run."""
        first = {seed: self.start(seed) for seed in self.seeds}
        further = [self.more(name, seed, first[seed]) for seed in self.seeds for name in self.rows]
        trained = [*dict.fromkeys(first.values()), *further]
        return [*trained, *map(self.judged, trained)]

    def judged(self, stage: Stage) -> Stage:
        """Decodes what a stage has trained."""
        command = ("python", *self.evaluation([str(self.folder / stage.name)]))
        return Stage(f"{self.split}-{stage.name}", command, (stage,), stage.data)

    def table(self) -> list[str]:
        """The command that prints it; its outputs are decoded by then."""
        runs = {name: [f"{name}-{seed}" for seed in self.seeds] for name in (PRETRAIN, *self.rows)}
        if self.one_start:
            runs[PRETRAIN] = runs[PRETRAIN][:1]
        labels = {name: name.partition(".")[0] if self.split == "test" else name for name in runs}
        systems = [
            f"{labels[name]}=" + ",".join(str(self.folder / run) for run in names)
            for name, names in runs.items()
        ]
        baseline = ["--baseline", "mle"] if "mle" in labels.values() else []
        return [*self.evaluation(systems), *baseline, "--json", str(self.scores)]

    @property
    def lead(self) -> str:
        """The column that counts."""
        return self.task.columns.partition(",")[0]

    # ---- trials ----

    @property
    def scores(self) -> Path:
        """What `table` writes."""
        return self.folder / ("scores.json" if self.split == "test" else "trials.json")

    def trials(self, flags: Sequence[str]) -> "Plan":
        """Every row with every one of the flags, by the first seed, judged on validation."""
        rows = {
            f"{name}.{number}": (row, f"{own} {more}")
            for name, (row, own) in self.rows.items()
            for number, more in enumerate(flags, 1)
        }
        return replace(self, rows=rows, seeds=self.seeds[:1], split="valid")

    def found(self) -> dict[str, float]:
        """The score of every trial."""
        systems = read_json(ROOT / self.scores)["systems"]
        return {name: systems[name]["scores"][self.lead]["mean"] for name in self.rows}

    def tries(self, row: str) -> list[str]:
        """The names of a row's trials."""
        return [name for name in self.rows if name.partition(".")[0] == row]

    def best(self, trials: "Plan") -> "Plan":
        """Each row as it had the best score in the trials, the first of equals."""
        score = trials.found()
        chosen = {max(trials.tries(row), key=score.__getitem__) for row in self.rows}
        kept = {name: what for name, what in trials.rows.items() if name in chosen}
        return replace(self, rows=kept)

    def choice(self, trials: "Plan", flags: Sequence[str]) -> str:
        """A Markdown table of the trials; in bold those that this plan, the `best`, keeps."""
        score = trials.found()
        lines = [("row", *(f"`{text}`" for text in flags)), ("---",) * (1 + len(flags))]
        for kept in self.rows:
            row = kept.partition(".")[0]
            found = [
                f"**{score[name]:.2f}**" if name == kept else f"{score[name]:.2f}"
                for name in trials.tries(row)
            ]
            lines.append((f"`{row}`", *found))
        return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def numbers(text: str) -> list[int]:
    """3 -> [1, 2, 3]; 4,7 -> [4, 7]; 5, -> [5]."""
    try:
        found = [int(part) for part in text.split(",") if part]
    except ValueError:
        found = []
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of seeds (3) nor a list of seeds (4,7 or 5,)"
        )
    if len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"{text!r} names a seed twice")
    return found if "," in text else list(range(1, found[0] + 1))


OPTIONS: Mapping[str, Option] = {
    "--profile": ("NAME", "laptop", "paper, laptop or, for translation, quickstart"),
    "--rows": ("NAMES", ",".join(ROWS), "in the order of the table"),
    "--one-start": ("", False, "train MLE by the first seed only; all seeds continue that model"),
    "--out": ("DIR", Path, "default: runs/TASK/PROFILE"),
    "--epochs": ("P,M", str, "epochs of MLE and of each row, other than the profile's"),
    "--pairs": (
        "N",
        int,
        "training pairs, other than the profile's; a tenth as many to validate and test",
    ),
    "--jobs": ("N", os.cpu_count() or 1, "processes at a time, one thread each"),
    "--share-cores": ("", False, "divide --jobs threads among the processes that can run"),
    "--examples": ("N", 0, "print N test sentences with each row's output"),
    "--force": ("", False, "remove stages and data that were finished with other settings"),
    "--dry-run": ("", False, "print the commands and do nothing"),
}
TRY = """flags that every row is tried with by the first seed; the best on validation is kept:
--try '--lr 5e-5' --try '--lr 2e-4'"""


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = OneLineParser(prog="table", description="Train and compare rows of the family.")
    add = parser.add_argument
    add("task", choices=TASKS)
    own = "one more row: --row 'soft=interp --erpo-c 5'"
    add("--row", action="append", default=[], metavar="NAME=FLAGS", help=own)
    add("--try", dest="trials", action="append", default=[], metavar="FLAGS", help=TRY)
    seeds = "how many seeds, or a list such as 4,7 (default: 1)"
    add("--seeds", type=numbers, default=[1], metavar="N", help=seeds)
    sources = "a prepared folder, or what corpus.py prepares: two texts, a folder, an archive"
    add("--data", type=Path, nargs="+", metavar="PATH", help=sources)
    cluster = "on a cluster: slurm_partition=gpu,gpus_per_node=1"
    add("--slurm", nargs="?", const="", metavar="KEY=VALUE,...", help=cluster)
    add_options(parser, OPTIONS)
    return parser.parse_args(argv)


def rows_of(args: argparse.Namespace, profile: Profile) -> dict[str, tuple[str, str]]:
    """Name -> row of the family and its flags.  Ends the program with one line if there is no such
    row.
    """
    rows = {}
    for name in filter(None, args.rows.split(",")):
        if name not in ROWS:
            raise SystemExit(f"--rows has no {name!r}; there are {', '.join(ROWS)}")
        rows[name] = (name, flags_of(name, profile.values))
    for text in args.row:
        name, _, flags = text.partition("=")
        row, _, more = flags.partition(" ")
        check_flags("--row", text, more)
        if not name.isidentifier() or name in {*rows, PRETRAIN} or row not in ROWS:
            form = f"NAME='ROW --flags' with a new NAME and a ROW of {', '.join(ROWS)}"
            raise SystemExit(f"--row {text!r} is not {form}")
        rows[name] = (row, f"{flags_of(row, profile.values)} {more}")
    if not rows:
        raise SystemExit("--rows and --row name no row")
    for text in args.trials:
        check_flags("--try", text, text)
    if len(set(args.trials)) < len(args.trials):
        raise SystemExit("--try gives the same flags twice")
    return rows


def check_flags(flag: str, typed: str, flags: str) -> None:
    """Ends the program with one line if the flags are no words of a shell."""
    try:
        shlex.split(flags)
    except ValueError as error:
        raise SystemExit(f"{flag} {typed!r}: {error}") from None


def sized(profile: Profile, args: argparse.Namespace) -> Profile:
    """The profile with what --epochs and --pairs say."""
    if args.epochs:
        try:
            first, more = map(int, args.epochs.split(","))
        except ValueError:
            raise SystemExit(f"--epochs {args.epochs!r} is not two numbers, such as 8,4") from None
        if min(first, more) < 1:
            raise SystemExit(f"--epochs {args.epochs} must both be at least 1")
        profile = replace(profile, pretrain_epochs=first, more_epochs=more)
    for flag, value in (("--pairs", args.pairs), ("--jobs", args.jobs)):
        if value is not None and value < 1:
            raise SystemExit(f"{flag} must be at least 1, and is {value}")
    if args.pairs:
        part = max(args.pairs // 10, 1)
        profile = replace(
            profile, selection=replace(profile.selection, train=args.pairs, valid=part, test=part)
        )
    return profile


def near(path: Path) -> Path:
    """Relative to the repository where it can be: a command, and with it a stage, stays the same
    when the repository moves.
    """
    path = path.resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def plan_of(args: argparse.Namespace) -> tuple[Plan, list[Path]]:
    """The plan, and the sources that its data are to be prepared from, if any."""
    profile = sized(profile_of(args.task, args.profile), args)
    folder = near(args.out or ROOT / "runs" / args.task / args.profile)
    data, sources = folder / "data", []
    if args.data:
        paths = [near(path) for path in args.data]
        if len(paths) == 1 and (ROOT / paths[0] / "corpus.json").is_file():
            data = paths[0]
        else:
            sources = paths
    rows, one_start = rows_of(args, profile), args.one_start or bool(profile.start)
    return Plan(TASKS[args.task], profile, folder, data, rows, args.seeds, one_start), sources


def minutes(runner: Runner, stage: Stage) -> str:
    """How long a stage took, from its last start to its end."""
    result = runner.result(stage) or {}
    core = f" ({result['core_seconds'] / 60:.1f})" if "core_seconds" in result else ""
    return f"{stage.name} {result.get('seconds', 0) / 60:.1f}{core}"


def carry_out(plan: Plan, runner: Runner, examples: int = 0) -> None:
    """Run what is not done, and print the table."""
    stages = plan.stages()
    done = sum(runner.result(stage) is not None for stage in stages)
    print(f"table: {done} of {len(stages)} stages are done", flush=True)
    runner.run(stages)
    print()
    subprocess.run([sys.executable, *plan.table(), "--examples", str(examples)], check=True)
    times = ", ".join(minutes(runner, stage) for stage in stages if stage.epochs)
    print(f"\nminutes (of one core): {times}", flush=True)


def commands(plan: Plan) -> list[str]:
    """What a plan would run."""
    words = [*(stage.command for stage in plan.stages()), ("python", *plan.table())]
    return list(map(shlex.join, words))


def prepare(plan: Plan, sources: Sequence[Path], task: str, force: bool) -> None:
    """The corpus, from the sources if there are any.  Ends the program where there is none."""
    if sources:
        asked = argparse.Namespace(languages=None, sources=sources, task=task)
        languages = corpus.languages_of(asked)
        with lock(plan.folder):
            corpus.prepare(sources, languages, plan.profile.selection, False, plan.data, force)
    if not (plan.data / "corpus.json").is_file():
        fix = f"name two text files with --data, or run examples/{task}/prepare_*.sh"
        raise SystemExit(f"{plan.data} is no prepared corpus: {fix}")


def write_report(plan: Plan) -> Path:
    """A page of all runs but the start; where it is."""
    runs = [
        str(plan.folder / stage.name) for stage in plan.stages() if stage.epochs and stage.after
    ]
    scores, folder = str(plan.scores), plan.folder / "report"
    words = ["report", *runs, "--scores", scores, "--out", str(folder)]
    done = [sys.executable, "-m", "fairseq_erpo", *words]
    subprocess.run(done, check=True, stdout=subprocess.DEVNULL)
    return folder / "report.html"


def what_next(plan: Plan, task: str, page: Path) -> str:
    """Commands to go on with."""
    python = f"{os.path.relpath(sys.executable)} -m fairseq_erpo"
    run = plan.folder / f"{[*plan.rows][-1]}-{plan.seeds[0]}"
    source, target = plan.corpus["languages"]
    own = f"examples/{task}/table.sh --rows mle,interp --data text.{source} text.{target}"
    return f"""
Next:
  curves, samples, translations   open {page}
  what training draws             {python} inspect {run}/checkpoint_best.pt {plan.data}/bin
  the same on your own texts      {own}"""


def main(argv: Sequence[str]) -> None:
    args = arguments(argv)
    plan, sources = plan_of(args)
    trials = plan.trials(args.trials) if args.trials else None
    os.chdir(ROOT)
    if args.dry_run:
        print("\n".join(commands(trials or plan)))
        return
    worker = Local if args.slurm is None else slurm_worker(args.slurm, plan.folder)
    prepare(plan, sources, args.task, args.force)
    runner = Runner(plan.folder, args.jobs, worker, args.share_cores, args.force)
    if trials:
        carry_out(trials, runner)
        plan = plan.best(trials)
        print(f"\nThe trials, {plan.lead} on validation; the best are kept:\n")
        print(f"{plan.choice(trials, args.trials)}\n", flush=True)
    carry_out(plan, runner, args.examples)
    print(what_next(plan, args.task, write_report(plan)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop fairseq's processes then too
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        raise SystemExit("\ntable: interrupted; run it again to go on from here.") from None
    except (ValueError, OSError) as error:
        raise SystemExit(f"table: {reason_of(error)}") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"table: this command failed: {shlex.join(map(str, error.cmd))}") from None
