"""Rewards of text: by name against the public scorers, as a function of one's own, and inside a
run.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, Built, Done, build
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import CHRF

from fairseq_erpo.algorithm.corpus_statistics import follows_model
from fairseq_erpo.family import FAMILY
from fairseq_erpo.plugin import corpus_statistics
from fairseq_erpo.rewards.corpus_bleu import CorpusStatistics
from fairseq_erpo.text_rewards import TEXT_REWARDS, Pool, checked, find

SOURCES = ["a b", "c", "d e f"]
WANTED = ["the cats sat here", "not me", "we were running home"]
FOUND = ["the cat sat here", "", "we ran"]
# Ten lines that a user might write.
OWN = '''
def shared(sources, hypotheses, references):
    """The share of the reference's words that the hypothesis has."""
    pairs = zip(hypotheses, references)
    return [len(set(h.split()) & set(r.split())) / len(r.split()) for h, r in pairs]


def broken(sources, hypotheses, references):
    return [1 / len(h) for h in hypotheses]


def short(sources, hypotheses, references):
    return [1.0]


def endless(sources, hypotheses, references):
    return [float("nan") for _ in hypotheses]


def talkative(sources, hypotheses, references):
    import subprocess

    subprocess.run(["echo", "METEOR"], check=True)
    return [0.0 for _ in hypotheses]
'''


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of metrics in the current folder, with a name of its own for each test."""
    name = f"metrics_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    return name


@pytest.fixture
def pool() -> Iterator[Pool]:
    pool = Pool("chrf", 2)
    yield pool
    pool.close()


@pytest.mark.parametrize("name", TEXT_REWARDS)
def test_equal_texts_earn_most_and_others_less(name: str) -> None:
    equal, different = checked(name, SOURCES, WANTED, WANTED), checked(name, SOURCES, FOUND, WANTED)
    assert equal == pytest.approx([1, 1, 1])
    assert all(-1 <= score <= 1 for score in different) and sum(different) < 2.9


def test_scores_are_those_of_the_packages() -> None:
    expected = [
        CHRF().sentence_score(found, [wanted]).score / 100
        for found, wanted in zip(FOUND, WANTED, strict=True)
    ]
    assert checked("chrf", SOURCES, FOUND, WANTED) == expected
    stems = RougeScorer(["rouge1"], use_stemmer=True).score(WANTED[0], FOUND[0])["rouge1"].fmeasure
    assert stems == 1 and checked("rouge_score", SOURCES, FOUND, WANTED)[0] == pytest.approx(1)


@pytest.mark.parametrize(
    ("found", "wanted", "reward"),
    [("x y", "x y", 1), ("x z", "x y", 0.5), ("a b c", "x y", -0.5), ("a b c d e f", "x", -1)],
)
def test_ter_is_paid_down_to_minus_one(found: str, wanted: str, reward: float) -> None:
    """Edits for each word of the reference: outputs far too long cost no more than one twice as
    long.
    """
    assert checked("ter", ["s"], [found], [wanted]) == pytest.approx([reward])


def test_workers_answer_in_the_order_of_the_texts(pool: Pool) -> None:
    for _ in range(2):
        assert pool.score(SOURCES, FOUND, WANTED) == checked("chrf", SOURCES, FOUND, WANTED)
    assert pool.score(SOURCES[:1], FOUND[:1], WANTED[:1]) == checked(
        "chrf", SOURCES[:1], FOUND[:1], WANTED[:1]
    )


def test_a_function_of_ones_own(own: str) -> None:
    pool = Pool(f"{own}:shared", 1)
    assert pool.score(SOURCES, FOUND, WANTED) == [3 / 4, 0, 1 / 4]
    pool.close()
    (worker,) = pool.workers
    assert worker.poll() is not None and worker.stdin.closed and worker.stdout.closed


def test_a_metric_may_start_a_program_that_prints(own: str) -> None:
    pool = Pool(f"{own}:talkative", 1)
    assert pool.score(SOURCES, FOUND, WANTED) == [0, 0, 0]
    pool.close()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            "broken",
            r"ZeroDivisionError: division by zero; source 'c', hypothesis '', reference 'not me'",
        ),
        ("short", r"1 numbers for 3 texts"),
        ("endless", r"source 'a b', hypothesis 'the cat sat here'"),
    ],
)
def test_a_failure_shows_the_sentence(own: str, function: str, words: str) -> None:
    pool = Pool(f"{own}:{function}", 1)
    with pytest.raises(ValueError, match=f"--erpo-reward {own}:{function} failed: .*{words}"):
        pool.score(SOURCES, FOUND, WANTED)
    if function == "broken":  # it goes on with the next batch
        assert pool.score(["x"], ["y"], ["z"]) == [1.0]
    pool.close()


@pytest.mark.parametrize(
    ("name", "words"),
    [("nosuch:f", "No module named 'nosuch'"), ("math:nosuch", "has no attribute 'nosuch'")],
)
def test_a_reward_that_is_not_there_is_refused_at_once(name: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"--erpo-reward {name}: .*{words}"):
        find(name)


FLAGS = (
    "--criterion erpo_self_critic --erpo-samples 2 --erpo-baseline leave_one_out "
    "--task erpo_translation"
)


def test_a_failure_ends_training_with_one_line(tiny_data: Path, own: str) -> None:
    built = build(tiny_data, f"{FLAGS} --erpo-reward {own}:endless")
    with pytest.raises(
        SystemExit, match=f"^erpo: --erpo-reward {own}:endless failed: [^\n]*; source '[^\n]*$"
    ):
        built.criterion.draw(built.model, built.batch([3, 14]))


def test_a_run_is_paid_by_text(tiny_data: Path, own: str) -> None:
    """The reward of each sample is the function of its text, and of the text of its source's
    reference.
    """
    built = build(tiny_data, f"{FLAGS} --erpo-reward {own}:shared")
    drawn = built.criterion.draw(built.model, built.batch([3, 14]))
    dictionary = built.task.target_dictionary
    references = [dictionary.string(built.task.dataset("train")[i]["target"]) for i in (3, 14)]
    batch = built.batch([3, 14])
    order = [(3, 14).index(int(i)) for i in batch["id"] for _ in range(2)]
    for tokens, which, reward in zip(
        drawn.sample.tokens, order, drawn.sample.reward.tolist(), strict=True
    ):
        words = {dictionary[i] for i in tokens.tolist() if i > dictionary.unk()}
        wanted = references[which].split()
        assert reward == pytest.approx(len(words & set(wanted)) / len(wanted))
    assert drawn.weights is not None


def test_beam_candidates_are_the_generators(tiny_data: Path) -> None:
    built = build(
        tiny_data,
        "--criterion erpo_mrt --erpo-samples 3 --erpo-candidates beam --task erpo_translation",
    )
    built.model.train()
    batch = built.batch([3, 14, 15])
    drawn = built.criterion.draw(built.model, batch)
    assert built.model.training
    assert (
        drawn.sample.tokens.shape[0] == 9
        and drawn.weights is not None
        and bool(drawn.weights.isfinite().all())
    )
    built.model.eval()
    from argparse import Namespace

    generator = built.task.build_generator(
        [built.model], Namespace(beam=3, max_len_a=1.5, max_len_b=5, lenpen=0.6)
    )
    for number, found in enumerate(built.task.inference_step(generator, [built.model], batch)):
        best = found[0]["tokens"]
        assert torch.equal(drawn.sample.tokens[3 * number][: len(best)], best)


def test_beam_candidates_are_of_the_length_penalty_of_evaluation(tiny_data: Path) -> None:
    """All of them, in the generator's order; another penalty would choose others."""
    from argparse import Namespace

    built = build(
        tiny_data,
        "--criterion erpo_mrt --erpo-samples 4 --erpo-candidates beam --task erpo_translation",
    )
    built.model.eval()
    with torch.no_grad():  # EOS as likely as other words, so that candidates differ in length
        built.model.decoder.output_projection.weight[4:].mul_(0.7)
    batch = built.batch([*range(12)])
    drawn = built.criterion.draw(built.model, batch)

    def candidates(lenpen: float) -> list[list[int]]:
        chosen = Namespace(beam=4, max_len_a=1.5, max_len_b=5, lenpen=lenpen)
        found = built.task.inference_step(
            built.task.build_generator([built.model], chosen), [built.model], batch
        )
        return [one["tokens"].tolist() for hypotheses in found for one in hypotheses[:4]]

    pad = built.task.target_dictionary.pad()
    assert [[i for i in line if i != pad] for line in drawn.sample.tokens.tolist()] == candidates(
        0.6
    )
    assert candidates(0.6) != candidates(0.0) and candidates(0.6) != candidates(1.2)


def test_corpus_statistics_are_of_samples_and_their_length_of_greedy_outputs(
    tiny_data: Path, tmp_path: Path
) -> None:
    """A model for which all words are equally likely: greedy search ends at once, and samples are
    long.
    """
    built = build(tiny_data, f"{FLAGS} --erpo-reward corpus_bleu --save-dir {tmp_path}")
    with torch.no_grad():
        for parameter in built.model.parameters():
            parameter.zero_()
    built.criterion.draw(built.model, built.batch([3]))
    found = built.criterion.settings.reward.statistics
    lengths = [len(built.task.dataset("train")[i]["target"]) - 1 for i in range(300)]
    assert found.sentences == 300 and found.wanted == sum(lengths)  # each sentence once
    assert found.length == 0.5  # no output has a token, and what is nothing counts as half
    assert found.ngrams[0] > 2 * found.sentences and found.matches[0] > 10
    assert (
        all(one > other for one, other in itertools.pairwise(found.ngrams))
        and found.ngrams[0] > found.matches[0]
    )


def test_corpus_bleu_follows_the_model(tiny_data: Path, tmp_path: Path) -> None:
    """Counted at the first batch and at every 50th update, and kept for a run that goes on in
    between.
    """

    def statistics(built: Built, update: int, split: str = "train") -> CorpusStatistics:
        built.task.clock.update = update
        with torch.no_grad():  # another model at each update, the same in each run
            next(iter(built.model.parameters())).fill_(0.01 * (update + 1))
        built.criterion.draw(built.model, built.batch([3], split))
        found = built.criterion.settings.reward.statistics
        assert found == built.criterion.cache.settings.teacher.statistics and math.isfinite(
            found.bleu
        )
        return found  # type: ignore[no-any-return]

    flags = f"{FLAGS} --erpo-reward corpus_bleu --save-dir {tmp_path}"
    whole = build(tiny_data, flags)
    first, same, next_, last = (statistics(whole, update) for update in (7, 49, 50, 99))
    assert first == same and next_ == last != first
    for at, found in ((7, first), (8, first), (49, first), (50, next_), (51, next_)):
        assert statistics(build(tiny_data, flags), at) == found, f"a run that goes on at {at}"
    elsewhere = build(tiny_data, flags.replace(str(tmp_path), str(tmp_path / "elsewhere")))
    assert statistics(elsewhere, 7, "valid") == first, (
        "counted on the training data, whatever is looked at"
    )
    # Killed after a count that no checkpoint saw, the run goes on from before, and counts the same
    # again.
    again = build(tiny_data, flags)
    assert [statistics(again, update) for update in (20, 50)] == [first, next_]
    (tmp_path / "erpo_corpus.json").write_text('[{"update": 0}]')
    with pytest.raises(SystemExit, match=r"erpo_corpus\.json is damaged"):
        statistics(build(tiny_data, flags), 8)


@pytest.mark.parametrize("teacher", ["edit", "corpus_bleu"])
def test_corpus_bleu_is_counted_whoever_teaches(teacher: str) -> None:
    flags = {"erpo_reward": "corpus_bleu", "erpo_teacher": teacher}
    assert follows_model(FAMILY["interp"].settings(flags))
    paid_otherwise = FAMILY["interp"].settings({**flags, "erpo_reward": "bleu"})
    assert follows_model(paid_otherwise) == (teacher == "corpus_bleu")


def test_corpus_statistics_are_the_first_ranks_among_those_that_share_the_data(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def broadcast(statistics: Any, src_rank: int, group: Any) -> Any:
        asked.append((src_rank, group))
        return statistics

    built = build(tiny_data, f"{FLAGS} --erpo-reward corpus_bleu --save-dir {tmp_path}")
    monkeypatch.setattr(corpus_statistics, "is_parallel", lambda: True)
    monkeypatch.setattr(corpus_statistics.dist, "get_rank", lambda: 1)
    monkeypatch.setattr(corpus_statistics.distributed, "broadcast_object", broadcast)
    monkeypatch.setattr(
        corpus_statistics.distributed, "get_data_parallel_group", lambda: "data-parallel"
    )
    built.criterion.draw(built.model, built.batch([3]))
    assert asked == [(0, "data-parallel")] and not (tmp_path / "erpo_corpus.json").exists()


@pytest.mark.slow
def test_the_metric_of_the_documentation_trains_a_model(
    tmp_path: Path, train: Callable[..., Done]
) -> None:
    page = (ROOT / "docs" / "rewards.md").read_text("utf-8")
    (tmp_path / "my_metric.py").write_text(page.split("```python\n")[1].split("```")[0])
    flags = f"{FLAGS} --max-epoch 1 --erpo-reward my_metric:shared_words"
    done = train(tmp_path / "run", flags, env={"PYTHONPATH": str(tmp_path)})
    rewards = [float(value) for value in re.findall(r'"seq_reward": "([0-9.]+)"', done.output)]
    assert rewards and all(0 <= reward <= 1 for reward in rewards) and max(rewards) > 0
