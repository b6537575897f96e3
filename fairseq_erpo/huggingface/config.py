"""`ErpoConfig`: transformers' training arguments and the family's flags, made from FLAGS."""

from dataclasses import dataclass, field, make_dataclass
from typing import Any

from transformers import Seq2SeqTrainingArguments

from fairseq_erpo.family import FAMILY, Row
from fairseq_erpo.family.flags import FLAGS

# A flag's name here: without its prefix.  `lambda` cannot be an attribute of Python's, and label
# smoothing is transformers' `label_smoothing_factor`.
FIELDS = {
    flag: "mixture" if flag == "erpo_lambda" else flag.removeprefix("erpo_")
    for flag in FLAGS
    if flag != "label_smoothing"
}
RENAMED = {
    "--label-smoothing-factor": "--label-smoothing",
    "--mixture": "--erpo-lambda",
    "--metric-for-best-model rouge": "--eval-rouge",
    "--metric-for-best-model bleu": "--eval-bleu",
    "--": "--erpo-",
}


def in_our_words(text: str) -> str:
    """A text that names the family's flags as fairseq has them, with the names that they have here.

    --erpo-anneal-every -> --anneal-every, --erpo-lambda -> --mixture
    """
    for ours, theirs in RENAMED.items():
        text = text.replace(theirs, ours)
    return text


def _row_field() -> Any:
    known = ", ".join(FAMILY)
    return field(
        default="interp", metadata={"help": f"the algorithm, a row of the family: {known}"}
    )


def _flag_field(flag: str) -> Any:
    return field(default=None, metadata={"help": in_our_words(FLAGS[flag].help)})


_Flags = make_dataclass(
    "_Flags",
    [
        ("row", str, _row_field()),
        *((name, FLAGS[flag].type | None, _flag_field(flag)) for flag, name in FIELDS.items()),
    ],
    kw_only=True,
)


@dataclass
class ErpoConfig(Seq2SeqTrainingArguments, _Flags):  # type: ignore[misc, valid-type]
    """`Seq2SeqTrainingArguments`, the row, and a field for each flag of the family.

    A flag that is None has its row's default (docs/rows.md).  Raises ValueError, naming the flag,
    for a wrong value, for flags that contradict each other, and for a flag that the row does not
    have.
    """

    reward_weights: list[float] | None = field(
        default=None, kw_only=True, metadata={"help": "weights of several rewards; 1 for each"}
    )
    source_column: str = field(
        default="source", kw_only=True, metadata={"help": "the column of the source texts"}
    )
    target_column: str = field(
        default="target", kw_only=True, metadata={"help": "the column of the target texts"}
    )
    source_prefix: str = field(
        default="", kw_only=True, metadata={"help": "put before each source text, as T5 wants it"}
    )
    max_source_length: int = field(
        default=512, kw_only=True, metadata={"help": "tokens at which a source text is cut"}
    )
    max_target_length: int = field(
        default=256,
        kw_only=True,
        metadata={"help": "tokens at which a target text is cut, and the most that are drawn"},
    )
    log_completions: bool = field(
        default=False,
        kw_only=True,
        metadata={"help": "write a table of drawn sequences at each line of the log"},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.row not in FAMILY:
            raise ValueError(f"--row must be {' or '.join(FAMILY)}, not {self.row!r}")
        foreign = [
            name
            for flag, name in FIELDS.items()
            if getattr(self, name) is not None and flag not in self.family_row.flags
        ]
        if foreign:
            named = f"--{foreign[0].replace('_', '-')}"
            raise ValueError(f"{named} is no flag of the row {self.row}: leave it out")
        if self.label_smoothing_factor and "label_smoothing" not in self.family_row.flags:
            raise ValueError(f"the row {self.row} has no --label-smoothing-factor: leave it out")

    @property
    def family_row(self) -> Row:
        """The row that `row` names."""
        return FAMILY[self.row]

    def flags(self, words: int) -> dict[str, Any]:
        """The row's flags as they were given, by the names of FLAGS; None for one that was not.

        transformers spreads ε over V words, fairseq over the V - 1 others: ε (V - 1) / V makes the
        two equal.
        """
        given = {flag: getattr(self, name) for flag, name in FIELDS.items()}
        if self.label_smoothing_factor:
            given["label_smoothing"] = self.label_smoothing_factor * (words - 1) / words
        return given

    @property
    def validated_by(self) -> str | None:
        """What the run validates by, which `reward="metric"` follows: a key of PAID_BY."""
        metric = self.metric_for_best_model or ""
        return next((name for name in ("rouge", "bleu") if name in metric), None)
