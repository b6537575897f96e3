"""Data are counted whole before they are used: symbols as words, damage, shares that are usable;
tasks are called by name.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build, configuration
from fairseq import tasks
from fairseq.data import Dictionary, TransformEosLangPairDataset
from fairseq.data.indexed_dataset import make_builder

from fairseq_erpo.files import cause_of
from fairseq_erpo.plugin.clocked_task import clocked
from fairseq_erpo.plugin.data_checks import BadData, check_kept, check_side
from fairseq_erpo.plugin.dictionaries import KEY, check_dictionaries, digests
from fairseq_erpo.plugin.first_batch import check_targets
from fairseq_erpo.tools.doctor import task_of

WORDS = [f"w{n}" for n in range(11)]  # with fairseq's four symbols 15, so that there is one filler
LINE = "w0 w1 w2 w3"
MANY = 2000


def dictionary(folder: Path | None = None) -> Dictionary:
    made = Dictionary()
    for word in WORDS:
        made.add_symbol(word)
    made.pad_to_multiple_(8)
    for language in ("de", "en") if folder else ():
        made.save(str(folder / f"dict.{language}.txt"))
    return made


def write(folder: Path, split: str, sources: Sequence[str], targets: Sequence[str]) -> Path:
    """Text as fairseq-preprocess leaves it."""
    folder.mkdir(exist_ok=True)
    words = dictionary(folder)
    for language, lines in (("de", sources), ("en", targets)):
        prefix = str(folder / f"{split}.de-en.{language}")
        builder = make_builder(f"{prefix}.bin", "mmap", len(words))
        for line in lines:
            builder.add_item(words.encode_line(line, add_if_not_exist=False))
        builder.finalize(f"{prefix}.idx")
    return folder


def said(data: Path, split: str = "train") -> str:
    """What ends the loading of a split."""
    with pytest.raises(SystemExit) as stopped:
        task_of(str(data)).load_dataset(split)
    message = str(stopped.value)
    assert message.startswith("erpo: ") and "\n" not in message
    return message


# ---- symbols of the dictionary as words ----


@pytest.mark.parametrize("at", [0, 1, MANY // 2, MANY - 1])
@pytest.mark.parametrize("symbol", ["<s>", "<pad>", "</s>", "madeupword0000"])
def test_a_symbol_as_a_word_of_one_target_of_many_is_named(
    tmp_path: Path, symbol: str, at: int
) -> None:
    lines = [LINE] * MANY
    message = said(
        write(tmp_path / "data", "train", lines, [*lines[:at], f"w1 {symbol} w2", *lines[at + 1 :]])
    )
    assert (
        f"has {symbol} as a word in 1 of {MANY} targets, first in line {at + 1}:" in message
        and "damaged" not in message
    )


def test_a_symbol_twice_in_a_target_is_one_target(tmp_path: Path) -> None:
    lines = [LINE, "</s> w1 </s> w2", LINE, "w1 </s>"]
    assert "has </s> as a word in 2 of 4 targets, first in line 2" in said(
        write(tmp_path / "data", "train", [LINE] * 4, lines)
    )


def test_what_sources_may_have(tmp_path: Path) -> None:
    """An encoder reads all symbols but padding like words; <unk> is an unknown word on both
    sides.
    """
    good = write(
        tmp_path / "good",
        "train",
        ["<s> w1 w2 </s> w3 w4", *[LINE] * 40],
        ["w1 <unk> w2 w3", *[LINE] * 40],
    )
    task_of(str(good)).load_dataset("train")
    message = said(write(tmp_path / "bad", "train", [LINE, "w1 <pad> w2"], [LINE] * 2))
    assert "has <pad> as a word in 1 of 2 sources, first in line 2" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "do not end with </s>"),
        (1, "do not end with </s>"),
        (2, "has </s> as a word"),
        (99, "damaged"),
    ],
)
def test_targets_that_are_no_text_are_refused(value: int, words: str) -> None:
    check_side([torch.tensor([4, 5, 2])] * 3, dictionary(), "the train data", "targets")
    with pytest.raises(BadData, match=words):
        check_side([torch.full((3,), value)] * 3, dictionary(), "the train data", "targets")


# ---- shares ----


@pytest.mark.parametrize(
    ("unknown", "empty", "refused", "warned"),
    [
        (0, 0, "", ""),
        (60, 0, "40.0% of the words of its targets are in the dictionary", ""),
        (99, 0, "1.0% of the words of its targets", ""),
        (10, 0, "", "90.0% of the words of its targets"),
        (2, 0, "", ""),
        (0, 60, "40.0% of its targets have a word", ""),
        (0, 10, "", "90.0% of its targets have a word"),
        (0, 100, "empty targets only", ""),
    ],
)
def test_the_share_that_is_usable(
    unknown: int,
    empty: int,
    refused: str,
    warned: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The unusable sentences come last: a look at the first ones would not see them."""
    targets = ["w1 w2"] * (100 - unknown - empty) + ["none known"] * unknown + [""] * empty
    data = write(tmp_path / "data", "valid", [LINE] * 100, targets)
    if refused:
        assert refused in said(data, "valid")
        return
    with caplog.at_level(logging.WARNING):
        task_of(str(data)).load_dataset("valid")
    assert (warned in caplog.text) if warned else not caplog.records


def test_sides_of_unequal_length(tmp_path: Path) -> None:
    message = said(write(tmp_path / "data", "train", [LINE] * 3, [LINE] * 4))
    assert "train.de-en" in message and "3 of de and 4 of en" in message


@pytest.mark.parametrize(
    ("kept", "all_wanted", "words"),
    [
        (100, True, ""),
        (99, True, "only 99 of 100"),
        (99, False, ""),
        (90, False, "warned"),
        (49, False, "only 49 of 100"),
        (0, False, "only 0 of 100"),
    ],
)
def test_long_sentences(
    kept: int, all_wanted: bool, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    if words.startswith("only"):
        with pytest.raises(BadData, match=rf"^{words}.*--max-source-positions.*--truncate-source"):
            check_kept(kept, 100, (5, 5), all_wanted)
        return
    check_kept(kept, 100, (5, 5), all_wanted)
    assert ("90 of 100" in caplog.text) == (words == "warned")


def test_training_data_of_which_most_is_too_long(tiny_data: Path) -> None:
    """fairseq leaves them out with a warning, all of them too; --max-source-positions of validation
    data ends in a traceback.
    """
    task = build(tiny_data, "--criterion erpo_mle --task erpo_translation").task
    task.load_dataset("train")
    dataset = task.dataset("train")
    indices = dataset.ordered_indices()
    for ignore in (True, False):
        with pytest.raises(SystemExit, match=r"^erpo: only \d+ of 300 pairs"):
            task.filter_indices_by_size(indices, dataset, (4, 100), ignore)
    assert len(task.filter_indices_by_size(indices, dataset, (100, 100), False)) == 300


# ---- what fails inside fairseq is said as it is ----


def test_batch_buckets_are_refused_by_name(tiny_data: Path) -> None:
    task = build(
        tiny_data, "--criterion erpo_mle --task erpo_translation --num-batch-buckets 3"
    ).task
    with pytest.raises(SystemExit, match=r"^erpo: --num-batch-buckets: .*numpy"):
        task.load_dataset("valid")


def test_a_catch_all_names_the_cause_and_advises_nothing(tiny_data: Path) -> None:
    """fairseq fails here as it may anywhere: data are not to blame."""
    task = build(tiny_data, "--criterion erpo_mle --task erpo_translation").task
    with pytest.raises(SystemExit) as stopped:
        task.load_dataset("valid", epoch="one")
    message = str(stopped.value)
    assert (
        "--task erpo_translation cannot load the valid data: TypeError" in message
        and "translation.py" in message
    )
    assert "again" not in message and "fairseq-preprocess" not in message


def test_the_cause_of_an_error() -> None:
    def failing() -> None:
        raise ZeroDivisionError("two\nlines")

    with pytest.raises(ZeroDivisionError) as raised:
        failing()
    assert cause_of(raised.value).startswith(
        "ZeroDivisionError: two lines (in test_data_checks.py, line "
    )
    assert cause_of(SystemExit("erpo: ours")) == "ours"
    assert cause_of(AssertionError()) == "AssertionError"


# ---- tasks that give the decoder something else ----


INTERP, MLE = "--criterion erpo_interp --erpo-preset paper", "--criterion erpo_mle"


def test_a_task_that_adds_symbols_is_named(tiny_data: Path) -> None:
    built = build(tiny_data, f"{INTERP} --task translation_lev")
    with pytest.raises(
        SystemExit, match=r"^erpo: --task translation_lev puts <s> before the targets"
    ):
        built.criterion.draw(built.model, built.batch([3, 14]))
    # Learns whatever fairseq's cross_entropy learns
    plain = build(tiny_data, f"{MLE} --task translation_lev")
    assert plain.criterion.draw(plain.model, plain.batch([3, 14])) is None


def test_a_decoder_that_begins_with_a_language_is_refused(tiny_data: Path) -> None:
    """As fairseq's multilingual_translation has it: the target is as it was, what the decoder reads
    is not.
    """
    built = build(tiny_data, f"{INTERP} --task erpo_translation")
    built.task.load_dataset("train")
    plain, eos = built.task.dataset("train"), built.task.target_dictionary.eos()
    marked = TransformEosLangPairDataset(plain, src_eos=eos, tgt_bos=eos, new_tgt_bos=7)
    vocabulary = built.criterion.vocabulary
    check_targets(plain.collater([plain[i] for i in (3, 14)]), vocabulary)
    with pytest.raises(ValueError, match="--task"):
        check_targets(marked.collater([marked[i] for i in (3, 14)]), vocabulary)


def test_language_tokens_of_many_languages_are_named(tiny_data: Path) -> None:
    flags = (
        "--task translation_multi_simple_epoch --lang-pairs de-en --decoder-langtok "
        "--encoder-langtok src"
    )
    cfg = configuration(tiny_data, f"{INTERP} {flags}")
    task = clocked(tasks.setup_task(cfg.task))
    task.load_dataset("train", epoch=1)
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    dataset = task.dataset("train")
    batch = dataset.collater([dataset[i] for i in range(2)])
    with pytest.raises(
        SystemExit,
        match=r"^erpo: --task translation_multi_simple_epoch puts __en__ before the targets",
    ):
        criterion.draw(model, batch)


# ---- references of which a scorer uses a part ----

CYRILLIC = str.maketrans("W0123456789", "Жабвгдеёзик")


def spelt_anew(data: Path, folder: Path, table: dict[int, str], every: int = 1) -> Path:
    """The data with every so many-th word of its targets' dictionary in other letters."""
    new = shutil.copytree(data, folder / "spelt")
    lines = (new / "dict.en.txt").read_text("utf-8").split("\n")
    lines = [
        line if n % every or not line else f"{line.split()[0].translate(table)} {line.split()[1]}"
        for n, line in enumerate(lines)
    ]
    (new / "dict.en.txt").write_text("\n".join(lines), "utf-8")
    return new


ROUGE = "--task erpo_translation --criterion erpo_mle --eval-rouge"


@pytest.mark.parametrize(("every", "refused"), [(6, False), (1, True)])
def test_rouge_of_references_of_which_it_counts_a_part(
    every: int, refused: bool, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A sixth of the words is in other letters; or all but some, so that there is an a-z in most
    sentences.
    """
    data = spelt_anew(tiny_data, tmp_path, CYRILLIC, every)
    if refused:
        file = data / "dict.en.txt"
        file.write_text(file.read_text("utf-8").replace("Ж", "W", 6), "utf-8")
    task = build(data, ROUGE).task
    if refused:
        with pytest.raises(
            SystemExit,
            match=(
                r"^erpo: --eval-rouge .* [1-9]\.\d% of the letters and digits of the valid "
                r"references"
            ),
        ):
            task.load_dataset("valid")
        return
    task.load_dataset("valid")
    assert "--eval-rouge counts a-z and 0-9 only" in caplog.text


PIECES = str.maketrans({"W": "▁W"})


@pytest.mark.slow
def test_scorers_of_words_on_pieces(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = spelt_anew(tiny_data, tmp_path, PIECES, every=2)
    with pytest.raises(SystemExit, match=r"--eval-rouge reads words.*--eval-bleu-remove-bpe"):
        build(data, ROUGE).task.load_dataset("valid")
    build(data, f"{ROUGE} --eval-bleu-remove-bpe sentencepiece").task.load_dataset("valid")
    assert not caplog.records
    build(data, ROUGE.replace("rouge", "bleu")).task.load_dataset("valid")
    assert "--eval-bleu-remove-bpe" in caplog.text
    flags = "--task erpo_translation --criterion erpo_self_critic --erpo-reward chrf"
    built = build(data, flags)
    with pytest.raises(
        SystemExit, match=r"^erpo: --erpo-reward chrf reads words.*--eval-bleu-remove-bpe"
    ):
        built.criterion.draw(built.model, built.batch([3, 14]))


@pytest.mark.slow
def test_bleu_of_a_script_without_blanks_is_hinted_at(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Pieces of Chinese are joined to sentences of one word."""
    data = spelt_anew(
        tiny_data,
        tmp_path,
        str.maketrans("W0123456789", "我们今天一起去公园散"[:1] + "们今天一起去公园散步"),
    )
    flags = (
        "--task erpo_translation --criterion erpo_mle --eval-bleu --eval-bleu-remove-bpe "
        "sentencepiece"
    )
    build(data, flags).task.load_dataset("valid")
    assert "--eval-tokenized-bleu" in caplog.text and "--tokenize zh" in caplog.text
    caplog.clear()
    build(
        data, "--task erpo_translation --criterion erpo_mle --eval-bleu --eval-tokenized-bleu"
    ).task.load_dataset("valid")
    assert not caplog.records
    for reward, instead in (("sacrebleu", "chrf"), ("ter", "chrf"), ("rouge_score", "chrf")):
        built = build(data, f"{flags} --criterion erpo_self_critic --erpo-reward {reward}")
        with pytest.raises(
            SystemExit, match=rf"^erpo: --erpo-reward {reward} .*use --erpo-reward {instead}"
        ):
            built.criterion.draw(built.model, built.batch([3, 14]))


# ---- samples drawn beforehand ----


def samples(path: Path, lines: Sequence[str]) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("numbers", "word", "refused"),
    [
        (range(300), "W00", ""),
        (
            range(299),
            "W00",
            "samples of 299 of the 300 sentences of the training data, and none of sentence 299",
        ),
        ([*range(17), *range(18, 300)], "W00", "and none of sentence 17"),
        (range(301), "W00", "samples of sentence 300, and the data has 300"),
        (range(300), "</s>", ":1: </s> is a symbol"),
        (range(300), "<pad>", ":1: <pad> is a symbol"),
        (range(300), "none none W00", "33.3% of the words"),
    ],
)
def test_a_samples_file_is_of_all_the_training_data(
    tiny_data: Path, tmp_path: Path, numbers: Sequence[int], word: str, refused: str
) -> None:
    """Before the first update, not when the sentence that has none comes."""
    file = samples(tmp_path / "samples", [f"{n}\t1\t{word}" for n in numbers])

    def draw() -> Any:
        built = build(
            tiny_data, f"--criterion erpo_raml --erpo-samples-file {file} --task erpo_translation"
        )
        return built.criterion.draw(built.model, built.batch([3, 14]))

    if not refused:
        assert draw() is not None
        return
    with pytest.raises(SystemExit) as stopped:
        draw()
    assert refused in str(stopped.value) and str(stopped.value).startswith("erpo: ")


def test_statistics_of_few_sentences_are_said(
    tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build(
        tiny_data, "--criterion erpo_interp --erpo-reward corpus_bleu --train-subset valid"
    )
    built.criterion.draw(built.model, built.batch([3, 14], "valid"))
    assert "statistics of 40 training sentences only" in caplog.text


def test_dictionaries_that_cannot_be_compared_are_said_to_be(
    tiny_data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint of fairseq without this plugin; one that knows a side only is of other data."""
    task = task_of(str(tiny_data))
    check_dictionaries({KEY: digests(task)}, task, "ours.pt")
    assert not caplog.records
    for _ in range(2):
        check_dictionaries({}, task, "theirs.pt")
    assert [record.getMessage().split()[0] for record in caplog.records] == ["theirs.pt"]
    with pytest.raises(ValueError, match="another target dictionary"):
        check_dictionaries({KEY: {"source": digests(task)["source"]}}, task, "half.pt")
