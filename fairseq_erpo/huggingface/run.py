"""The command line: texts, one sentence a line, in; a trained model, translations and scores out.

`python -m fairseq_erpo.huggingface` again in the same folder goes on from its last checkpoint.
"""

import sys
from argparse import SUPPRESS, HelpFormatter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, HfArgumentParser, set_seed

from fairseq_erpo.family import FAMILY
from fairseq_erpo.files import reason_of, text_lines, write_json, write_text
from fairseq_erpo.huggingface.config import FIELDS, ErpoConfig
from fairseq_erpo.huggingface.data import cuts_of, tokenised
from fairseq_erpo.huggingface.decoder import base_of
from fairseq_erpo.huggingface.new_model import new_model, new_tokenizer
from fairseq_erpo.huggingface.trainer import ErpoTrainer
from fairseq_erpo.scores import measures

COLUMNS = ("bleu", "chrf", "rouge1", "rouge2", "rougeL")
HYPOTHESES, REFERENCES, SCORES = "test.hypotheses", "test.references", "test.json"
USAGE = "python -m fairseq_erpo.huggingface --train SOURCE TARGET --output_dir DIR [FLAGS]"
DESCRIPTION = (
    "Train an encoder-decoder of transformers by a row of the family, on texts of one sentence a "
    "line.  All arguments of transformers' Seq2SeqTrainingArguments are flags, too."
)


@dataclass
class Texts:
    """The model and the texts."""

    train: list[str] = field(metadata={"help": "two files: source and target, a sentence a line"})
    valid: list[str] | None = field(
        default=None, metadata={"help": "two files to validate on; the best checkpoint is kept"}
    )
    test: list[str] | None = field(
        default=None, metadata={"help": "two files to translate and score in the end"}
    )
    model: str = field(
        default="new",
        metadata={"help": "name in the hub, or folder; new: a small T5 with random weights"},
    )
    source_lang: str | None = field(
        default=None, metadata={"help": "the tokenizer's code, of multilingual models: deu_Latn"}
    )
    target_lang: str | None = field(default=None, metadata={"help": "the same of the target"})
    lora: int | None = field(
        default=None, metadata={"help": "train adapters of this rank, instead of all weights"}
    )
    beam: int = field(default=4, metadata={"help": "width of the beam for --test"})
    sentences: int | None = field(
        default=None, metadata={"help": "train on the first so many pairs (default: all)"}
    )
    valid_sentences: int | None = field(
        default=None, metadata={"help": "validate on the first so many pairs (default: all)"}
    )
    pieces: int = field(default=8000, metadata={"help": "vocabulary of a new model"})
    width: int = field(default=256, metadata={"help": "width of a new model"})
    layers: int = field(default=3, metadata={"help": "layers of a new model, on either side"})
    dropout: float = field(default=0.1, metadata={"help": "dropout of a new model"})


class Parser(HfArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> Any:
        raise ValueError(f"{message}; --help lists the flags")


def parser_for(argv: Sequence[str]) -> Parser:
    """Its help shows our flags, and of the family's those of the row that was named."""
    kinds: Any = [Texts, ErpoConfig]
    parser = Parser(kinds, usage=USAGE, description=DESCRIPTION, formatter_class=HelpFormatter)
    parser.set_defaults(output_dir=None, seed=1, report_to=["none"], save_total_limit=2)
    if "--valid" in argv:
        parser.set_defaults(
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            predict_with_generate=True,
            metric_for_best_model="bleu",
        )
    row = FAMILY.get(_value_of("--row", argv), FAMILY["interp"])
    mine = {one.name for one in fields(Texts)} | {"help", "row", "output_dir", "reward_weights"}
    mine |= {name for name in ErpoConfig.__annotations__}
    for action in parser._actions:
        action.required = action.required or action.dest == "output_dir"
        flag = next((flag for flag, name in FIELDS.items() if name == action.dest), None)
        default = row.default_text(flag) if flag in row.flags else action.default
        if flag not in row.flags and action.dest not in mine:
            action.help = SUPPRESS
        elif default not in (None, "", SUPPRESS):
            action.help = f"{action.help} (default: {default})".replace("%", "%%")
    return parser


def _value_of(flag: str, argv: Sequence[str]) -> str:
    return dict(pairwise(argv)).get(flag, "interp")


def read(paths: Sequence[str], flag: str) -> list[dict[str, str]]:
    """Rows of two files.  Raises ValueError unless they have equally many lines."""
    if len(paths) != 2:
        raise ValueError(f"{flag} takes two files, source and target, not {len(paths)}")
    sides = [text_lines(path) for path in paths]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(
            f"{flag}: {paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}"
        )
    return [{"source": s, "target": t} for s, t in zip(*sides, strict=True)]


def build(texts: Texts, rows: Sequence[dict[str, str]]) -> tuple[Any, Any]:
    """The model and its tokenizer."""
    if texts.model == "new":
        both = [row[side] for side in ("source", "target") for row in rows]
        tokenizer = new_tokenizer(both, texts.pieces)
        return new_model(len(tokenizer), texts.width, texts.layers, texts.dropout), tokenizer
    languages = {"src_lang": texts.source_lang, "tgt_lang": texts.target_lang}
    given = {name: value for name, value in languages.items() if value is not None}
    try:
        tokenizer = AutoTokenizer.from_pretrained(texts.model, **given)
        return AutoModelForSeq2SeqLM.from_pretrained(texts.model), tokenizer
    except (OSError, ValueError) as error:
        raise ValueError(f"--model {texts.model}: {reason_of(error)}") from None


def metrics_of(tokenizer: Any) -> Callable[[Any], dict[str, float]]:
    """Scores of what `generate` wrote, against the labels."""

    def compute(prediction: Any) -> dict[str, float]:
        wanted = (prediction.predictions, prediction.label_ids)
        found, references = (decoded(tokenizer, ids) for ids in wanted)
        scores = score(found, references)
        scores["rouge"] = sum(scores[name] for name in ("rouge1", "rouge2", "rougeL")) / 3
        return scores

    return compute


def decoded(tokenizer: Any, ids: Any) -> list[str]:
    """Ids, padded by -100 or PAD, as texts."""
    ids = np.where(ids == -100, tokenizer.pad_token_id, ids)
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def score(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """By the measures of `evaluate`."""
    known = measures()
    return {
        name: float(known[name].score(known[name].counts(hypotheses, references).sum(0)))
        for name in COLUMNS
    }


def run(argv: Sequence[str]) -> None:
    """Train, save the model, and score --test.  Raises ValueError in one line for bad input."""
    parser = parser_for(argv)
    texts, args = parser.parse_args_into_dataclasses(list(argv))
    train = read(texts.train, "--train")[: texts.sentences]
    valid = read(texts.valid, "--valid")[: texts.valid_sentences] if texts.valid else None
    test = read(texts.test, "--test") if texts.test else None
    args.source_column, args.target_column = "source", "target"
    set_seed(args.seed)  # of a new model's weights, alike in all processes
    model, tokenizer = build(texts, train)
    trainer = ErpoTrainer(
        model,
        args,
        train_dataset=train,
        eval_dataset=valid,
        processing_class=tokenizer,
        peft_config=_adapters(texts.lora),
        compute_metrics=metrics_of(tokenizer) if args.predict_with_generate else None,
    )
    trainer.train(resume_from_checkpoint=args.resume_from_checkpoint or True)
    trainer.save_model()
    trainer.save_state()
    trainer.create_model_card()
    if test is not None:
        translate(trainer, test, texts.beam)


def _adapters(rank: int | None) -> Any:
    if rank is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, task_type="SEQ_2_SEQ_LM")


def translate(trainer: ErpoTrainer, rows: Sequence[dict[str, str]], beam: int) -> None:
    """Write the translations and their references beside the model, and print their scores."""
    args, tokenizer = trainer.args, trainer.processing_class
    cuts = cuts_of(base_of(trainer.model), args)
    data = tokenised(list(rows), tokenizer, args, cuts)
    args.predict_with_generate, trainer.compute_metrics = True, None
    found = trainer.predict(data, max_length=cuts.target, num_beams=beam)
    if not trainer.is_world_process_zero():
        return
    hypotheses = decoded(tokenizer, found.predictions)
    references = [row["target"] for row in rows]
    folder = Path(str(args.output_dir))
    for name, lines in ((HYPOTHESES, hypotheses), (REFERENCES, references)):
        write_text(folder / name, "".join(f"{line}\n" for line in lines), "--output_dir")
    scores = score(hypotheses, references)
    write_json(folder / SCORES, {"sentences": len(rows), "beam": beam, **scores}, "--output_dir")
    print("  ".join(f"{name} {value:.2f}" for name, value in scores.items()))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; bad input ends it with one line."""
    try:
        run(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError) as error:
        raise SystemExit(f"erpo: {reason_of(error)}") from None
