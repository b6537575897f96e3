"""Train an encoder-decoder of `transformers` by a row of the family, without fairseq: two text
files, a sentence per line.

Row: any but `mixer` and `sequence_tutor`.  Paper's cell: none.  fairseq_erpo/algorithm/__init__.py
says what a framework has to bring.  A small T5 from scratch, or a model of the hub: --model
google-t5/t5-small.

    pip install '.[huggingface]'    # CONTRIBUTING.md has the two lines before it
    python examples/huggingface/train.py text.de text.en --row mle --epochs 20 --save runs/t5
    python examples/huggingface/train.py text.de text.en --model runs/t5 --row interp --lr 5e-5 --epochs 1 --save runs/t5-interp
"""

import random
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import Any

sys.modules.setdefault("torchaudio", None)  # type: ignore[arg-type]  # fairseq brings one that a CPU build of torch cannot load

import sacrebleu
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.modeling_outputs import BaseModelOutput

from fairseq_erpo import FAMILY, FLAGS, Batch, Draws, Row, Vocabulary, previous_tokens
from fairseq_erpo.algorithm.draw import gold
from fairseq_erpo.algorithm.inputs import PlainInputs
from fairseq_erpo.algorithm.mstep import total_loss
from fairseq_erpo.algorithm.schedule import Now
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.files import reason_of, text_lines
from fairseq_erpo.rewards.corpus_bleu import CorpusBleu
from fairseq_erpo.verbs import dashed

MOST = 200  # tokens of a sentence, EOS included; longer ones are cut
ROWS = [name for name in FAMILY if name not in ("mixer", "sequence_tutor")]
OWN = {  # this script's flags: default, help
    "model": (
        "",
        "folder, or name in the hub, of a model to go on from; without it, a small T5 from scratch",
    ),
    "save": ("", "folder for the trained model and its tokenizer"),
    "lr": (5e-4, "learning rate of AdamW"),
    "epochs": (10, "passes over the training pairs"),
    "batch": (32, "pairs an update"),
    "valid": (
        100,
        "how many of the last pairs are kept from training, and translated for BLEU in the end",
    ),
    "pieces": (8000, "vocabulary of a model from scratch"),
    "width": (256, "width of a model from scratch"),
    "seed": (1, "of weights, order and draws"),
}


def read(paths: Sequence[str]) -> list[list[str]]:
    """The lines of the two texts.  Raises ValueError unless they have equally many."""
    texts = [text_lines(path) for path in paths]
    if len(texts[0]) != len(texts[1]):
        raise ValueError(
            f"{paths[0]} has {len(texts[0])} lines and {paths[1]} has {len(texts[1])}; they must be parallel"
        )
    return texts


def settings_of(row: Row, flags: Mapping[str, Any]) -> Settings:
    """The row's settings.  Raises ValueError for what fairseq's criterion does and this script does
    not.
    """
    settings = row.settings(flags)
    foreign = {
        "--erpo-samples-file (leave it out)": settings.samples_file is not None,
        "--erpo-schedule plateau (use stairs)": settings.schedule.plateau,
        "--erpo-candidates beam (use samples)": settings.candidates == "beam",
        "--erpo-teacher corpus_bleu (use bleu)": isinstance(settings.teacher, CorpusBleu),
        "corpus_bleu, also of --erpo-preset corpus and risk (use --erpo-reward bleu)": isinstance(
            settings.reward, CorpusBleu
        ),
    }
    if any(foreign.values()):
        raise ValueError(
            f"this needs fairseq's criterion: {', '.join(name for name, asked in foreign.items() if asked)}"
        )
    return settings


def new_model(lines: list[str], pieces: int, width: int) -> tuple[Any, Any]:
    """A small T5 with random weights, and byte pairs learnt from the text."""
    text = Tokenizer(models.BPE(unk_token="<unk>"))
    text.pre_tokenizer, text.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    text.train_from_iterator(
        lines, trainers.BpeTrainer(vocab_size=pieces, special_tokens=["<pad>", "</s>", "<unk>"])
    )
    text.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    ids: Any = {
        "vocab_size": text.get_vocab_size(),
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    config = T5Config(
        **ids, d_model=width, d_kv=width // 4, d_ff=4 * width, num_heads=4, num_layers=2
    )
    named: Any = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return T5ForConditionalGeneration(config), PreTrainedTokenizerFast(
        tokenizer_object=text, **named
    )


class CachedDecoder:
    """A `StepDecoder` over `past_key_values`.  Its features are the logits, so that any
    encoder-decoder serves.
    """

    def __init__(self, model: Any, encoded: Tensor, mask: Tensor) -> None:
        self.model, self.encoded, self.mask, self.cache = model, encoded, mask, None

    def step(self, previous: Tensor) -> Tensor:
        out = self._run(previous, slice(-1, None), past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        return out.logits[:, -1]

    def log_probs(self, features: Tensor) -> Tensor:
        return features.float().log_softmax(-1)

    def keep(self, rows: Tensor) -> None:
        self.encoded, self.mask = self.encoded[rows], self.mask[rows]
        if self.cache is not None:
            self.cache.batch_select_indices(rows)

    def teacher_forced(self, previous: Tensor) -> Tensor:
        return self._run(previous, slice(None), use_cache=False).logits

    def _run(self, previous: Tensor, part: slice, **cached: Any) -> Any:
        first = torch.full_like(previous[:, :1], self.model.config.decoder_start_token_id)
        read = torch.cat([first, previous[:, 1:]], 1)[:, part]
        out = BaseModelOutput(last_hidden_state=self.encoded)
        return self.model(
            encoder_outputs=out, attention_mask=self.mask, decoder_input_ids=read, **cached
        )


class Learner:
    """One model and one row; `loss` is all of an update that is not the optimiser's."""

    def __init__(
        self, model: Any, tokenizer: Any, row: Row, flags: Any, targets: list[str], seed: int
    ) -> None:
        pad, size = tokenizer.pad_token_id, model.config.vocab_size
        # Models of the hub have more rows than their tokenizer has ids
        never = (pad, *range(len(tokenizer), size))
        self.vocabulary = Vocabulary(
            size, pad, tokenizer.eos_token_id, tokenizer.unk_token_id, never
        )
        self.model, self.tokenizer, self.row, self.settings, self.seed = (
            model,
            tokenizer,
            row,
            settings_of(row, flags),
            seed,
        )
        self.inputs = PlainInputs.from_targets(
            tokenizer(targets).input_ids, self.settings, self.vocabulary, model.device
        )

    # [B, T] int64, closed by EOS, padded on the right
    def ids(self, lines: Sequence[str]) -> Tensor:
        cut: Any = {"padding": True, "truncation": True, "max_length": MOST, "return_tensors": "pt"}
        return self.tokenizer(list(lines), **cut).input_ids.to(self.model.device)

    def loss(self, pairs: Sequence[tuple[int, str, str]], now: Now) -> Tensor:
        """The loss per target of (number, source, target), at (epoch, update, falls of the score).
        -> scalar
        """
        numbers, *sides = zip(*pairs, strict=True)
        source, target = map(self.ids, sides)
        settings, schedule, vocabulary = self.settings, self.settings.schedule, self.vocabulary
        draws = Draws(torch.tensor(numbers, device=target.device), self.seed, now[1])

        def start(copies: int) -> CachedDecoder:
            mask = source.ne(vocabulary.pad).long()
            encoded = self.model.get_encoder()(input_ids=source, attention_mask=mask)[0]
            return CachedDecoder(
                self.model, encoded.repeat_interleave(copies, 0), mask.repeat_interleave(copies, 0)
            )

        batch = Batch(
            target,
            draws,
            schedule.mixture(now),
            schedule.stage(now),
            settings,
            vocabulary,
            MOST,
            start,
            self.inputs,
        )
        self.model.eval()  # no dropout while sampling
        with torch.no_grad():
            # None before annealing starts: data
            drawn = None if schedule.elapsed(now) is None else self.row.draw(batch)
            drawn = gold(batch) if drawn is None else self.row.weigh(batch, drawn)
        self.model.train()
        logits = start(drawn.samples).teacher_forced(
            previous_tokens(drawn.sample.tokens, vocabulary)
        )
        at = drawn.learnt.flatten().ne(vocabulary.pad).nonzero()[:, 0]
        log_p = logits.flatten(0, 1)[at].float().log_softmax(-1)
        loss, _ = total_loss(log_p, drawn, at, target, vocabulary, settings.label_smoothing)
        return loss / (len(at) if drawn.size is None else drawn.size)


def main(args: Namespace) -> float:
    """Train, print the loss of every epoch, and save.  -> BLEU of the last --valid pairs"""
    torch.manual_seed(args.seed)
    flags = {name: getattr(args, name, None) for name in FLAGS}
    texts = read(args.texts)
    if not 0 < args.valid < len(texts[0]) or args.batch < 1:
        raise ValueError(
            f"--valid must lie between 1 and {len(texts[0]) - 1} for these texts, and --batch be at least 1"
        )
    hub = (
        [kind.from_pretrained(args.model) for kind in (AutoModelForSeq2SeqLM, AutoTokenizer)]
        if args.model
        else None
    )
    model, tokenizer = hub or new_model(texts[0] + texts[1], args.pieces, args.width)
    if held := {
        mark for mark in tokenizer.all_special_tokens if mark in "\n".join(texts[0] + texts[1])
    } - {tokenizer.unk_token}:
        raise ValueError(
            f"a text has {', '.join(sorted(held))}, which the tokenizer keeps for itself: write it otherwise"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    train = list(zip(range(len(texts[0])), *texts, strict=True))[: -args.valid]
    learner = Learner(model, tokenizer, FAMILY[args.row], flags, texts[1][: -args.valid], args.seed)
    optimizer, updates = torch.optim.AdamW(model.parameters(), args.lr), 0
    for epoch in range(1, args.epochs + 1):
        random.Random(f"{args.seed} {epoch}").shuffle(train)
        for at in range(0, len(train), args.batch):
            loss = learner.loss(train[at : at + args.batch], Now(epoch, updates))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            updates += 1
        print(
            f"epoch {epoch}: {updates} updates, the last at a loss of {loss.item():.3f}", flush=True
        )
    _ = args.save and [part.save_pretrained(args.save) for part in (model, tokenizer)]
    out = model.eval().generate(learner.ids(texts[0][-args.valid :]), max_new_tokens=MOST)
    found, wanted = tokenizer.batch_decode(out, skip_special_tokens=True), texts[1][-args.valid :]
    print(
        f"chrF {sacrebleu.corpus_chrf(found, [wanted]).score:.2f}, which serves where a script has no blanks and BLEU no words"
    )
    return sacrebleu.corpus_bleu(found, [wanted]).score


if __name__ == "__main__":
    first = ArgumentParser(add_help=False)
    first.add_argument(
        "--row",
        choices=ROWS,
        default="mle",
        help="algorithm, whose flags come last here (default: mle)",
    )
    row = FAMILY[first.parse_known_args()[0].row]
    parser = ArgumentParser(description=__doc__.split("\n")[0], parents=[first])
    parser.add_argument(
        "texts", nargs=2, metavar="TEXT", help="source and target, a sentence per line"
    )
    for name, (default, text) in OWN.items():
        parser.add_argument(
            dashed(name),
            type=type(default),
            default=default,
            help=f"{text} (default: {default or 'none'})",
        )
    for name in row.flags:
        default = row.default_text(name)
        text = FLAGS[name].help + f" (default: {default})" * (default != "-")
        parser.add_argument(dashed(name), type=FLAGS[name].type, help=text)
    try:
        print(f"BLEU {main(parser.parse_args()):.2f}")
    except (ValueError, OSError) as error:
        raise SystemExit(f"train.py: {reason_of(error)}") from None
