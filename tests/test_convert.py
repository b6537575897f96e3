"""`python -m fairseq_erpo convert`: an old checkpoint becomes one that is safe to read, with its
model; nothing is executed.
"""

import os
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Fairseq, load

from fairseq_erpo.__main__ import main
from fairseq_erpo.plugin.safe_load import check_checkpoint
from fairseq_erpo.tools.convert import read_legacy


@pytest.fixture
def old(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """As fairseq of 2019 and torch of 2019 wrote: a Namespace, meters as objects, no zip archive."""
    from fairseq.logging.meters import AverageMeter, TimeMeter

    state = load(tiny_checkpoint)
    config = state.pop("cfg")
    flags: dict[str, Any] = {}
    for part in ("task", "model"):
        flags |= vars(config[part]) if isinstance(config[part], Namespace) else dict(config[part])
    state["args"] = Namespace(
        **{**flags, "task": "translation", "criterion": "cross_entropy", "arch": "transformer"}
    )
    state["extra_state"] = {"train_meters": {"train_loss": AverageMeter(), "wall": TimeMeter()}}
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    return tmp_path / "old.pt"


def test_the_model_is_kept_and_training_starts_from_it(
    old: Path, tiny_checkpoint: Path, tiny_data: Path, fairseq: Fairseq, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"fairseq_erpo convert .*old\.pt NEW"):
        check_checkpoint(str(old))
    new = tmp_path / "new.pt"
    main(["convert", str(old), str(new)])
    assert check_checkpoint(str(new))["optimizer_history"][-1]["num_updates"] == 0
    kept, was = load(new)["model"], load(tiny_checkpoint)["model"]
    assert kept.keys() == was.keys() and all(kept[name].equal(was[name]) for name in was)
    flags = f"--criterion erpo_interp --finetune-from-model {new} --max-update 1 --lr 1e-30 --disable-validation"
    fairseq.train(tiny_data, tmp_path / "run", flags).succeed()
    trained = load(tmp_path / "run" / "checkpoint_last.pt")["model"]
    for name in was:
        torch.testing.assert_close(trained[name], was[name], rtol=0, atol=1e-6)


class Evil:
    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_it_is_executed(zipped: bool, old: Path, tmp_path: Path) -> None:
    state = read_legacy(str(old))
    state["extra_state"] = {"meter": Evil(tmp_path / "trace")}
    torch.save(state, old, _use_new_zipfile_serialization=zipped)
    with pytest.raises(SystemExit, match="mkdir"):
        main(["convert", str(old), str(tmp_path / "new.pt")])
    assert not (tmp_path / "trace").exists() and not (tmp_path / "new.pt").exists()


def test_what_cannot_be_converted_is_refused(old: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("no checkpoint")
    for words, message in (
        ((tmp_path / "none.pt", tmp_path / "new.pt"), "no checkpoint at"),
        ((tmp_path / "text.pt", tmp_path / "new.pt"), "text.pt is not a checkpoint"),
        ((old, old), "exists already"),
    ):
        with pytest.raises(SystemExit, match=message):
            main(["convert", *map(str, words)])
    assert not (tmp_path / "new.pt").exists()
