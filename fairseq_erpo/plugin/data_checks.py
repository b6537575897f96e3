"""A split of the data, counted whole before it is used: damage, symbols that no text may have, and
how much of it is usable.

N sentences.  V: size of the dictionary.
"""

import logging
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import utils
from fairseq.data import Dictionary

from fairseq_erpo.algorithm.draw import GOLD
from fairseq_erpo.algorithm.settings import Settings
from fairseq_erpo.coverage import ENOUGH, NEARLY_ALL, Coverage
from fairseq_erpo.family import Row
from fairseq_erpo.plugin.batch import vocabulary_of
from fairseq_erpo.plugin.binarised import HEADER, MAGIC, check_index
from fairseq_erpo.plugin.row_inputs import RunCache, config_of, train_subset
from fairseq_erpo.plugin.texts import spelt
from fairseq_erpo.scores import tokeniser
from fairseq_erpo.text_rewards import find

LOG = logging.getLogger("fairseq_cli.train")  # the one that --log-file listens to

AGAIN = "look at what fairseq-preprocess was given, or run it again"
JOIN = "add --eval-bleu-remove-bpe sentencepiece (or '@@ ')"
AT_ONCE = 2**24  # tokens
# Training targets, at random, by a scorer of text: a share of theirs is right to half a percent
LOOKED_AT = 10_000
FIRST = 20  # sentences, enough to see what a task adds to each


class BadData(ValueError):
    """Data that cannot be trained on.  Its text is one line, with what to do."""


# ---- files ----


def check_files(folder: str, split: str) -> None:
    """Raises BadData for an empty or a damaged file, and for sides of unequal length."""
    # fairseq would fail to map an empty file into memory.
    if any(not file.stat().st_size for file in Path(folder).glob(f"{split}.*.bin")):
        raise BadData(f"the {split} data holds no sentence pair; {AGAIN}")
    sides: dict[str, dict[str, int]] = defaultdict(dict)
    for index in sorted(Path(folder).glob(f"{split}.*.idx")):
        try:
            check_index(index)
        except ValueError as error:
            raise BadData(f"{error}; {AGAIN}") from None
        with index.open("rb") as file:
            head = file.read(struct.calcsize(HEADER))
        if head.startswith(MAGIC):
            pair, _, language = index.stem.removeprefix(f"{split}.").partition(".")
            sides[pair][language] = struct.unpack(HEADER, head)[-1]
    for pair, counts in sides.items():
        if len(set(counts.values())) > 1:
            held = " and ".join(f"{count} of {language}" for language, count in counts.items())
            raise BadData(f"the sides of {split}.{pair} are not parallel: {held}; {AGAIN}")


# ---- datasets ----


def check_dataset(dataset: Any, task: Any, split: str) -> None:
    """Raises BadData for a split that is empty, or whose sentences cannot be text.

    fairseq's translation tasks keep pairs of texts, some of them inside other datasets.
    """
    data = f"the {split} data"
    if not len(dataset):
        raise BadData(f"{data} holds no sentence pair; {AGAIN}")
    for pair in pairs_in(dataset):
        source_words = getattr(pair, "src_dict", None) or getattr(task, "source_dictionary", None)
        target_words = getattr(pair, "tgt_dict", None) or getattr(task, "target_dictionary", None)
        check_side(pair.src, source_words, data, "sources")
        check_side(pair.tgt, target_words, data, "targets")


def pairs_in(dataset: Any) -> Iterator[Any]:
    """The datasets of pairs, with `src` and `tgt`, inside whatever wraps them."""
    if getattr(dataset, "src", None) is not None:
        if getattr(dataset, "tgt", None) is not None:
            yield dataset
        return
    inner = getattr(dataset, "datasets", None)
    if isinstance(inner, Mapping):
        inner = list(inner.values())
    for each in inner or filter(None, [getattr(dataset, "dataset", None)]):
        yield from pairs_in(each)


def name_of(task: Any) -> str:
    """The task's name on the command line."""
    config = config_of(task)
    return str(
        getattr(config, "_name", None) or getattr(config, "task", None) or type(task).__name__
    )


# ---- tokens ----


@dataclass
class Held:
    """What one side of a split holds."""

    # [V + 1] int64: of each id; the last counts those that the dictionary does not have
    counts: np.ndarray
    sentences: int = 0
    empty: int = 0  # sentences of EOS alone
    unended: int = 0  # sentences that do not end with EOS
    # Special id -> [sentences with it, the first, from 1]
    marked: dict[int, list[int]] = field(default_factory=dict)


def stored(texts: Any) -> Any:
    """What lies under fairseq's wrappers, which add, leave out or cut tokens."""
    while hasattr(texts, "dataset"):
        texts = texts.dataset
    return texts


def blocks(texts: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens one after the other, and lengths of sentences [N]: one block for each file."""
    texts = stored(texts)
    for part in getattr(texts, "datasets", None) or [texts]:
        part = stored(part)
        # Fairseq's file in memory; `check_index` saw that it holds nothing else
        if hasattr(part, "_bin_buffer"):
            yield (
                np.frombuffer(part._bin_buffer, part._index.dtype),
                np.asarray(part.sizes, np.int64),
            )
            continue
        if getattr(part, "supports_prefetch", False):
            part.prefetch(range(len(part)))
        lines = [part[n] for n in range(len(part))]
        yield (
            torch.cat([*lines, torch.zeros(0)]).numpy().astype(np.int64),
            np.array([len(line) for line in lines], np.int64),
        )


def count(texts: Any, size: int, eos: int, special: tuple[int, ...]) -> Held:
    """Count all tokens; `special` are the ids whose places are wanted, among them EOS inside a
    sentence.
    """
    held = Held(np.zeros(size + 1, np.int64))
    for tokens, lengths in blocks(texts):
        ends = lengths.cumsum()
        last = tokens[ends[lengths > 0] - 1] if len(tokens) else tokens
        held.unended += int((last != eos).sum() + (lengths == 0).sum())
        held.empty += int((lengths <= 1).sum())
        found: dict[int, list[np.ndarray]] = defaultdict(list)
        for start in range(0, len(tokens), AT_ONCE):
            part = tokens[start : start + AT_ONCE].astype(np.int64)
            counts = np.bincount(
                np.where((part >= 0) & (part < size), part, size), minlength=size + 1
            )
            held.counts += counts
            for id_ in special:
                if counts[id_]:
                    at = np.flatnonzero(part == id_) + start
                    inside = at[~np.isin(at, ends - 1)] if id_ == eos else at
                    found[id_].append(np.unique(np.searchsorted(ends, inside, "right")))
        for id_, parts in found.items():
            lines = np.unique(np.concatenate(parts))
            if len(lines):
                before, first = held.marked.get(id_, [0, held.sentences + int(lines[0]) + 1])
                held.marked[id_] = [before + len(lines), first]
        held.sentences += len(lengths)
    return held


def check_side(texts: Any, dictionary: Any, data: str, side: str) -> None:
    """Count one side.  Raises BadData if it cannot be text: damaged, with symbols as words, or
    hardly anything in it usable.

    Sources may have <s> and </s> as words, which an encoder reads like any other.
    """
    if texts is None or not isinstance(dictionary, Dictionary):
        return
    vocabulary, eos = vocabulary_of(dictionary), dictionary.eos()
    special = (eos, *vocabulary.never) if side == "targets" else (dictionary.pad(),)
    held = count(texts, len(dictionary), eos, special)
    if held.counts[-1]:
        raise BadData(
            f"{data} is damaged, or of another dictionary: its {side} hold ids that no text has; "
            f"{AGAIN}"
        )
    if held.unended:
        many = f"{held.unended} of {held.sentences} {side}"
        raise BadData(f"{data} is damaged: {many} do not end with {dictionary[eos]}; {AGAIN}")
    for id_, (many_lines, first) in sorted(held.marked.items()):
        raise BadData(
            f"{data} has {dictionary[id_]} as a word in {many_lines} of {held.sentences} {side}, "
            f"first in line {first}: fairseq "
            "keeps this symbol for itself; write it otherwise, and run fairseq-preprocess again"
        )
    apart = sum(int(held.counts[i]) for i in {dictionary.unk(), dictionary.bos(), dictionary.pad()})
    words = int(held.counts.sum()) - held.sentences  # each ends with EOS
    if not words:
        raise BadData(f"{data} has empty {side} only; {AGAIN}")
    known = int(held.counts.sum()) - int(held.counts[eos]) - apart
    demand(known / words, f"of the words of its {side}", "are in the dictionary", data)
    demand(1 - held.empty / held.sentences, f"of its {side}", "have a word", data)


def demand(share: float, of: str, what: str, data: str) -> None:
    """Raises BadData if less than half is usable; says the share if it is not nearly all."""
    if share < ENOUGH:
        raise BadData(f"{data} is hardly usable: {share:.1%} {of} {what}; {AGAIN}")
    if share < NEARLY_ALL:
        LOG.warning(f"{data}: {share:.1%} {of} {what}")


# ---- lengths and batches ----


def check_kept(kept: int, all_: int, room: Any, all_of_them: bool) -> None:
    """Raises BadData if less than half of the pairs, or not all where all are wanted, fit into the
    model; says how many do.
    """
    if kept == all_:
        return
    fit = (
        f"{kept} of {all_} pairs fit the model's --max-source-positions and "
        f"--max-target-positions, {room}"
    )
    fixes = (
        "raise them in training, cut long sources by --truncate-source, or take long pairs out of "
        "the data"
    )
    if kept < ENOUGH * all_:
        raise BadData(f"only {fit}: {fixes}")
    if all_of_them:
        raise BadData(
            f"only {fit}: {fixes}; --skip-invalid-size-inputs-valid-test of fairseq's commands "
            "leaves them out"
        )
    if kept < NEARLY_ALL * all_:
        LOG.warning(f"{fit}; the others are left out")


def check_task(task: Any, dataset: Any) -> None:
    """Raises BadData if the task adds tokens to targets, which a row that draws would not make
    (`first_batch` has the rest).
    """
    name, instead = (
        name_of(task),
        "this row draws without: use --task erpo_translation, or --criterion erpo_mle",
    )
    for pair in pairs_in(dataset):
        some = range(min(len(pair.tgt), FIRST))
        added = {int(pair.tgt[n][0]) for n in some} - {int(stored(pair.tgt)[n][0]) for n in some}
        if added:
            words = " and ".join(pair.tgt_dict[id_] for id_ in sorted(added))
            raise BadData(
                f"--task {name} puts {words} before the targets (as --decoder-langtok does), and "
                f"{instead}"
            )


# ---- scorers ----


def check_scorers(dataset: Any, task: Any, split: str) -> None:
    """Look at all references of validation as its scorers will.  Raises BadData if --eval-rouge
    would count hardly anything.
    """
    config = config_of(task)
    rouge, bleu = (bool(getattr(config, f"eval_{name}", False)) for name in ("rouge", "bleu"))
    if split == train_subset(task) or not (rouge or bleu):
        return
    plain = bool(getattr(config, "eval_tokenized_bleu", False))
    for pair in pairs_in(dataset):
        texts = (spelt(task, pair.tgt[n], "") for n in range(len(pair.tgt)))
        found = Coverage.of(texts, tokeniser("none" if plain else "13a"))
        if rouge:
            check_words(found, "--eval-rouge", f"{split} references")
            check_latin(found, "--eval-rouge", f"{split} references", "--eval-bleu")
        if bleu and found.words < NEARLY_ALL and not plain:
            LOG.warning(
                f"--eval-bleu compares words, and {1 - found.words:.0%} of the {split} references "
                f"are in pieces: {JOIN}"
            )
        if bleu and found.bleu < NEARLY_ALL:
            LOG.warning(
                f"--eval-bleu: {1 - found.bleu:.0%} of the {split} references are one word to its "
                "tokeniser, since their script "
                "has no blanks, and nearly right outputs score 0: compare pieces, by "
                "--eval-tokenized-bleu without "
                "--eval-bleu-remove-bpe, and score in the end by `evaluate --tokenize "
                f"{found.tokeniser}`"
            )


def check_text_reward(name: str, dataset: Any, task: Any) -> None:
    """Look at the training targets as a reward of text will.  Raises BadData if it would count
    hardly anything of them.
    """
    flag, of = f"--erpo-reward {name}", "training targets"
    for pair in pairs_in(dataset):
        chosen = np.random.default_rng(1).permutation(len(pair.tgt))[:LOOKED_AT]
        found = Coverage.of(spelt(task, pair.tgt[int(n)], "") for n in chosen)
        check_words(found, flag, of)
        if name == "rouge_score":
            check_latin(found, flag, of, "--erpo-reward chrf")
        if name in ("sacrebleu", "ter") and found.bleu < NEARLY_ALL:
            said = (
                f"{flag} compares words between blanks, which {1 - found.bleu:.0%} of the {of} do "
                "not have"
            )
            if found.bleu < ENOUGH:
                raise BadData(
                    f"{said}: use --erpo-reward chrf, or bleu, which counts the dictionary's tokens"
                )
            LOG.warning(said)


def check_words(found: Coverage, flag: str, of: str) -> None:
    """Raises BadData for text in pieces, which a scorer of words would take for words."""
    if found.words < NEARLY_ALL:
        raise BadData(
            f"{flag} reads words, and {1 - found.words:.0%} of the {of} are in pieces: {JOIN}"
        )


def check_latin(found: Coverage, flag: str, of: str, instead: str) -> None:
    """Raises BadData if ROUGE keeps less than half of the letters and digits; says how much if not
    nearly all.
    """
    said = (
        f"{flag} counts a-z and 0-9 only, {found.rouge:.1%} of the letters and digits of the {of}"
    )
    if found.rouge < ENOUGH:
        raise BadData(f"{said}: use {instead}")
    if found.rouge < NEARLY_ALL:
        LOG.warning(f"{said}; {instead} counts all")


def check_training(task: Any, row: Row, settings: Settings, cache: RunCache, model: Any) -> None:
    """At the first batch of training: does the row get what it needs from task, data and files?
    Raises ValueError.
    """
    if isinstance(settings.reward, str):
        find(settings.reward)
    if train_subset(task) not in task.datasets:
        return
    dataset = task.dataset(train_subset(task))
    if row.draw != GOLD:
        check_task(task, dataset)
    if isinstance(settings.reward, str):
        check_text_reward(settings.reward, dataset, task)
    if cache.predrawn is not None:
        room = utils.resolve_max_positions(task.max_positions(), model.max_positions())
        cache.predrawn.check_covers(
            dataset.filter_indices_by_size(np.arange(len(dataset)), room)[0], len(dataset)
        )
        if cache.predrawn.known < NEARLY_ALL:
            LOG.warning(
                f"--erpo-samples-file: {cache.predrawn.known:.1%} of its words are in the "
                "dictionary"
            )
