"""What share of a text a scorer can use, over all of it, and the hints that follow from it."""

import json
import urllib.request
from pathlib import Path

import pytest
from sacrebleu.tokenizers import tokenizer_spm

from fairseq_erpo.__main__ import main
from fairseq_erpo.coverage import ENOUGH, NEARLY_ALL, Coverage
from fairseq_erpo.scores import tokeniser

ENGLISH = "the cat sat on the mat again"
CHINESE = "我们今天一起去公园散步"
JAPANESE = "これは日本語の文です"
THAI = "สวัสดีชาวโลกทุกคนในวันนี้"
RUSSIAN = "мы сегодня идём домой вместе"


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        ([RUSSIAN], 0),
        ([f"{RUSSIAN} 2020"], 4 / 28),  # not the sentence as a whole, for a number in it
        ([ENGLISH] * 100 + ["съешь"] * 400, 2200 / 4200),  # not what stands in the first hundred
        (["Größe"], 3 / 5),
        (["ÇA VA"], 3 / 4),  # counted in lower case
        (["2020", "!"], 1),
        ([], 1),
    ],
)
def test_share_of_letters_that_rouge_counts(texts: list[str], share: float) -> None:
    assert Coverage.of(texts).rouge == pytest.approx(share)


@pytest.mark.parametrize(
    ("text", "name", "share", "better"),
    [
        (CHINESE, "13a", 0, "zh"),
        (CHINESE, "intl", 0, "zh"),
        (CHINESE, "zh", 1, "char"),
        (CHINESE, "char", 1, "char"),
        ("我们 今天 一起 去 公园 散步", "13a", 1, "char"),  # by a segmenter
        ("我们走吧", "13a", 0, "zh"),
        (JAPANESE, "13a", 0, "ja-mecab"),
        (THAI, "13a", 0, "char"),
        ("ใน วัน นี้ ทุก คน ไป", "13a", 1, "char"),
        ("Donaudampfschifffahrtsgesellschaft", "13a", 1, "char"),
        (RUSSIAN, "13a", 1, "char"),
        ("안녕하세요 여러분 반갑습니다", "13a", 1, "char"),
    ],
)
def test_texts_whose_words_a_tokeniser_does_not_see(
    text: str, name: str, share: float, better: str
) -> None:
    found = Coverage.of([text], tokeniser(name))
    assert found.bleu == share
    if share == 0:
        assert found.tokeniser == better


def test_pieces_are_counted_by_texts() -> None:
    assert Coverage.of(["▁he llo", "a@@ b", "c@@", ENGLISH]).words == 0.25
    assert ENOUGH < NEARLY_ALL < 1


# ---- evaluate ----


def printed(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    found: list[str],
    wanted: list[str],
    *flags: str,
) -> str:
    for name, lines in (("found", found), ("wanted", wanted)):
        (folder / name).write_text("".join(f"{line}\n" for line in lines), "utf-8")
    main(
        [
            "evaluate",
            str(folder / "found"),
            "--reference",
            str(folder / "wanted"),
            "--json",
            str(folder / "json"),
            *flags,
        ]
    )
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "flag"), [(CHINESE, "zh"), (JAPANESE, "ja-mecab"), (THAI, "char")]
)
def test_a_nearly_right_output_that_scores_0(
    text: str, flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [text[n:] + text[:n] for n in range(4)]
    found = [line[:-1] + "x" for line in wanted]
    out = printed(tmp_path, capsys, found, wanted)
    scores = json.loads((tmp_path / "json").read_text())["systems"]["found"]["scores"]
    assert scores["bleu"]["mean"] < 1 and scores["chrf"]["mean"] > 50
    assert f"use --tokenize {flag}" in out
    hint = [line for line in out.splitlines() if "--tokenize" in line]
    assert len(hint) == 1
    assert "--tokenize" not in printed(
        tmp_path, capsys, found, wanted, "--tokenize", "char"
    ).replace("tok:char", "")


def test_half_of_the_references_are_seen_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By letters the other half would hide them."""
    wanted = [ENGLISH] * 6 + [CHINESE] * 4
    assert "40% of the references are one word to --tokenize 13a" in printed(
        tmp_path, capsys, wanted, wanted
    )


def test_outputs_in_pieces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [ENGLISH] * 4
    assert "--remove-bpe sentencepiece" in printed(
        tmp_path, capsys, ["▁the ▁c at ▁sat ▁on ▁the ▁m at ▁again"] * 4, wanted
    )
    assert "--remove-bpe" not in printed(tmp_path, capsys, wanted, wanted)


def test_letters_that_agree_where_words_do_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [f"{ENGLISH} {n} and once more" for n in range(4)]
    found = [line.replace(" ", "") for line in wanted]
    assert "--tokenize char" in printed(tmp_path, capsys, found, wanted)


def test_rouge_of_mixed_scripts_says_what_it_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [f"{ENGLISH} {'я' * 3}"] * 4
    assert "88.0% of the references' letters and digits: compare also BLEU or chrF" in printed(
        tmp_path, capsys, few, few
    )


def test_references_that_are_hardly_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unknown = ["the <<unk>> sat on", *[ENGLISH] * 2]
    assert "6% of the references' words are not in the dictionary" in printed(
        tmp_path, capsys, unknown, unknown
    )
    with pytest.raises(SystemExit, match=r"^erpo: --reference: 60% of its references are empty"):
        printed(tmp_path, capsys, [ENGLISH] * 10, [ENGLISH] * 4 + [" "] * 6)


def test_a_tokeniser_that_cannot_be_downloaded_names_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a proxy that refuses every connection; the folder of models is empty."""
    monkeypatch.setattr(tokenizer_spm, "SACREBLEU_DIR", str(tmp_path / "models"))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies that it found first
    with pytest.raises(SystemExit) as stopped:
        printed(tmp_path, capsys, [ENGLISH], [ENGLISH], "--tokenize", "flores101")
    said = str(stopped.value)
    assert said.startswith("erpo: --tokenize flores101") and "\n" not in said
    assert "none, zh, 13a, intl, char" in said and "flores200" not in said
