"""fairseq's architectures and tasks: each trains rightly or is refused in one line.  `python
tests/test_architectures.py` writes docs/architectures.md.

Two epochs of each with `erpo_mle`, a search after the first, against fairseq's `cross_entropy`
without one, to the last bit; and with `erpo_interp`.  Layers, widths and data are tiny.
"""

import argparse
import logging
import multiprocessing
import random
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, Fairseq, assert_equal_bits, configuration, write_corpus

PAGE = ROOT / "docs" / "architectures.md"
# Of fairseq.models
AUDIO = ("speech_dlm", "wav2vec", "hubert", "speech_to_text", "speech_to_speech", "text_to_speech")
SIZES = {
    **{
        f"--{side}-{name}": "32"
        for side in ("encoder", "decoder")
        for name in ("embed-dim", "ffn-embed-dim", "conv-dim")
    },
    **{f"--{side}-layers": "1" for side in ("encoder", "decoder")},
    **{f"--{side}-attention-heads": "2" for side in ("encoder", "decoder")},
    **{f"--{side}-hidden-size": "32" for side in ("encoder", "decoder")},
    **{f"--{side}-kernel-size-list": "[3]" for side in ("encoder", "decoder")},
    "--decoder-out-embed-dim": "32",
    "--alignment-layer": "0",
    "--source-position-markers": "0",
}
CONVOLUTIONS = {"--encoder-layers": "[(32,3)]*2", "--decoder-layers": "[(32,3)]*2"}
OTHER_SIZES = {
    "fconv": CONVOLUTIONS,
    "fconv_self_att": CONVOLUTIONS
    | {"--decoder-attention": "[True]*2", "--self-attention": "[True]*2"},
}
PAIRS = "--task erpo_translation --eval-bleu"
INTERP = "--criterion erpo_interp --erpo-preset robust --erpo-schedule constant"
TRAINS, REFUSED, NOT_THERE = "trains", "refused", "-"


class Case(NamedTuple):
    """One line of the page."""

    title: str
    flags: str  # of the model
    task: str = PAIRS
    data: str = "pairs"


def sized(arch: str, name: str) -> str:
    """`--arch` with those of SIZES that it knows."""
    from fairseq.models import MODEL_REGISTRY

    parser = argparse.ArgumentParser(allow_abbrev=False, conflict_handler="resolve")
    MODEL_REGISTRY[name].add_args(parser)
    sizes = SIZES | OTHER_SIZES.get(name, {})
    return " ".join(
        [
            f"--arch {arch}",
            *(
                f"{flag} {size}"
                for flag, size in sizes.items()
                if flag in parser._option_string_actions
            ),
        ]
    )


def architectures() -> list[Case]:
    """One architecture of each class of models that reads text."""
    import fairseq.examples.pointer_generator.pointer_generator_src.transformer_pg  # noqa: F401 - registers one more
    from fairseq.models import ARCH_MODEL_INV_REGISTRY, MODEL_REGISTRY, FairseqEncoderDecoderModel

    cases = []
    for name, kind in MODEL_REGISTRY.items():
        archs = ARCH_MODEL_INV_REGISTRY.get(name, [])
        hears = kind.__module__.removeprefix("fairseq.models.").split(".")[0] in AUDIO
        if archs and not hears and issubclass(kind, FairseqEncoderDecoderModel):
            arch = (
                name
                if name in archs
                else next((arch for arch in archs if arch.endswith("base")), archs[0])
            )
            cases.append(Case(arch, sized(arch, name)))
    return cases


def settings() -> list[Case]:
    """Flags of models that change what the decoder computes, or how."""
    transformer, align = (
        sized("transformer", "transformer"),
        sized("transformer_align", "transformer_align"),
    )
    flags = {
        "--adaptive-softmax-cutoff 5,10": transformer,
        "--share-all-embeddings": transformer,
        "--no-token-positional-embeddings": transformer,
        "--encoder-learned-pos --decoder-learned-pos": transformer,
        "--cross-self-attention": transformer,
        "--no-cross-attention": transformer,
        "--decoder-layerdrop .5": transformer,
        "--quant-noise-pq .2": transformer,
        "--checkpoint-activations": transformer,
        "--full-context-alignment": align,
    }
    return [Case(flag, f"{model} {flag}") for flag, model in flags.items()]


def other_tasks() -> list[Case]:
    """Tasks that hand over pairs of texts, or texts."""
    transformer = sized("transformer", "transformer")
    multi = "--task translation_multi_simple_epoch --lang-pairs de-en,en-de"
    lm = (
        "--arch transformer_lm --decoder-layers 1 --decoder-embed-dim 32 --decoder-ffn-embed-dim "
        "32 --decoder-attention-heads 2"
    )
    bart = sized("bart_base", "bart")
    tasks = {
        "translation": Case("", transformer, "--task translation --eval-bleu"),
        "translation_multi_simple_epoch": Case("", transformer, multi),
        "translation_multi_simple_epoch --decoder-langtok": Case(
            "", transformer, f"{multi} --decoder-langtok"
        ),
        "translation_multi_simple_epoch --lang-tok-replacing-bos-eos": Case(
            "",
            transformer,
            f"{multi} --decoder-langtok --encoder-langtok tgt --lang-tok-replacing-bos-eos",
        ),
        "multilingual_translation": Case(
            "",
            sized("multilingual_transformer", "multilingual_transformer"),
            "--task multilingual_translation --lang-pairs de-en,en-de",
        ),
        "translation_lev": Case("", transformer, "--task translation_lev"),
        "translation_from_pretrained_bart": Case(
            "", bart, "--task translation_from_pretrained_bart --langs de,en"
        ),
        "denoising": Case("", bart, "--task denoising --tokens-per-sample 16 --mask .3", "lines"),
        "language_modeling": Case(
            "", lm, "--task language_modeling --tokens-per-sample 16", "lines"
        ),
    }
    return [case._replace(title=f"--task {name}") for name, case in tasks.items()]


def trained(cfg: Any, criterion: str, validate: bool) -> dict[str, Any]:
    """The parameters after two epochs."""
    from fairseq import metrics, tasks
    from fairseq.criterions import CRITERION_REGISTRY
    from fairseq.trainer import Trainer

    metrics.reset()
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    kind = CRITERION_REGISTRY[criterion]
    built = (
        kind(task, False)
        if criterion == "cross_entropy"
        else kind.build_criterion(cfg.criterion, task)
    )
    task.load_dataset("valid")
    trainer = Trainer(cfg, task, model, built)
    iterator = trainer.get_train_iterator(1)
    for epoch in (1, 2):
        batches = iterator.next_epoch_itr()
        trainer.begin_epoch(epoch)
        for batch in batches:
            trainer.train_step([batch])
        if validate and epoch == 1:
            for batch in trainer.get_valid_iterator("valid").next_epoch_itr(shuffle=False):
                trainer.valid_step(batch)
    # Those without a gradient are unused, and fairseq leaves some of them as it found their memory.
    return {
        name: value.detach() for name, value in model.named_parameters() if value.grad is not None
    }


def outcome(case: Case, folder: Path) -> tuple[str, str]:
    """What becomes of erpo_mle and of erpo_interp.  Fails for a traceback of ours, and where
    erpo_mle is not cross_entropy.
    """
    cfg = configuration(
        folder / case.data, f"{INTERP} {case.task} {case.flags} --max-tokens 600 --lr 1e-3"
    )
    own = attempt(cfg, "cross_entropy", validate=False)
    found = []
    for criterion in ("erpo_mle", "erpo_interp"):
        done = attempt(cfg, criterion)
        if isinstance(done, SystemExit):
            line = str(done)
            assert line.startswith("erpo: ") and "\n" not in line, line
            found.append(REFUSED)
        elif isinstance(done, Exception):
            assert isinstance(own, Exception), f"{case.title}: {done!r}"
            found.append(NOT_THERE)
        else:
            assert not isinstance(own, Exception), (
                f"{case.title} trains with {criterion} only, fairseq says {own!r}"
            )
            # Whose noise is another one in each process
            if criterion == "erpo_mle" and "denoising" not in case.title:
                assert_equal_bits(done, own, case.title)
            assert all(bool(value.isfinite().all()) for value in done.values())
            found.append(TRAINS)
        print(
            f"{case.title}: {criterion}: {done if isinstance(done, BaseException) else TRAINS}",
            file=sys.stderr,
        )
    return found[0], found[1]


def attempt(
    cfg: Any, criterion: str, validate: bool = True
) -> dict[str, Any] | SystemExit | Exception:
    """Parameters, or what came instead of them: in a process of its own, for fairseq keeps state
    beside its objects.
    """
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)

    def run() -> None:
        try:
            there.send(
                {name: value.numpy() for name, value in trained(cfg, criterion, validate).items()}
            )
        except (SystemExit, Exception) as error:
            there.send(
                error
                if isinstance(error, SystemExit)
                else RuntimeError(f"{type(error).__name__}: {error}")
            )

    process = fork.Process(target=run)
    process.start()
    found = here.recv()
    process.join()
    return (
        found
        if isinstance(found, BaseException)
        else {name: torch.from_numpy(value) for name, value in found.items()}
    )


HEAD = """# fairseq's architectures and tasks

Generated: `python tests/test_architectures.py`, which trains each for two epochs, with tiny
layers and data, and a search for BLEU after the first. `trains` under `erpo_mle` means: to the
last bit the parameters of fairseq's own `cross_entropy` without validation. `trains` under
`erpo_interp` means that the probabilities it draws from, word by word, are those of the model's
forward pass: each run asks that of its first batch. `refused` is one line before the first
update; `-` is what fairseq's own `cross_entropy` does not train here, either.

What is refused, and why: models that are no encoder and decoder, or whose decoder does not go
word by word (the non-autoregressive ones, `fconv_self_att`, language models,
`multilingual_transformer`); `--adaptive-softmax-cutoff`, since fairseq's adaptive softmax has no
gradient through the probabilities of all words; `translation_from_pretrained_bart`, whose data
fairseq 0.12 itself cannot load; rows that draw, where the model's output needs more than the
decoder's features (pointers, `--full-context-alignment`), or where the targets of the task are
not words and `</s>`, read behind a `</s>` (`denoising`, the `<s>` of `translation_lev`, language
tokens of the decoder). Models of audio are not listed: nothing here reads it.
"""
PARTS: dict[str, Callable[[], list[Case]]] = {
    "## Architectures": architectures,
    "## Flags of models": settings,
    "## Tasks": other_tasks,
}


def page(folder: Path) -> str:
    """The page as it should be."""
    parts = [HEAD.strip()]
    for title, cases in PARTS.items():
        lines = [f"{title}", "", "| | `erpo_mle` | `erpo_interp` |", "| --- | --- | --- |"]
        for case in cases():
            mle, interp = outcome(case, folder)
            lines.append(f"| `{case.title}` | {mle} | {interp} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def corpora(folder: Path, fairseq: Fairseq) -> Path:
    """`pairs` of two languages in both directions, with one dictionary, and `lines` of one."""
    text = write_corpus(folder / "text", {"train": 60, "valid": 12})
    splits = [word for split in ("train", "valid") for word in (f"--{split}pref", text / split)]
    pairs = ["-s", "de", "-t", "en", *splits, "--destdir", folder / "pairs", "--joined-dictionary"]
    fairseq.start("fairseq-preprocess", [*pairs, "--workers", 1]).succeed()
    for file in (folder / "pairs").glob("*.de-en.*"):
        shutil.copy(file, file.with_name(file.name.replace("de-en", "en-de")))
    splits = [f"{word}.en" if isinstance(word, Path) else word for word in splits]
    lines = ["--only-source", *splits, "--destdir", folder / "lines"]
    fairseq.start("fairseq-preprocess", [*lines, "--workers", 1]).succeed()
    return folder


@pytest.mark.slow
def test_architectures_and_tasks_train_or_are_refused(tmp_path: Path, fairseq: Fairseq) -> None:
    """Make the page anew with `python tests/test_architectures.py`."""
    assert page(corpora(tmp_path, fairseq)) == PAGE.read_text("utf-8")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as made:
        PAGE.write_text(page(corpora(Path(made), Fairseq(Path(made)))), "utf-8")
