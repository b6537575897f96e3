"""Training data as rows of token ids, each with its sentence's number.

A row has text columns (`source`, `target`) or is tokenised already (`input_ids`, `labels`); other
columns travel along, for rewards that ask for them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fairseq_erpo.huggingface.conventions import positions_of

ID = "erpo_id"
COLUMNS = "erpo_columns"
MODEL_COLUMNS = ("input_ids", "attention_mask", "labels")


class Columns:
    """The other columns of a batch.  A plain object, since transformers rebuilds tuples and
    mappings on their way to the device.
    """

    def __init__(self, values: Mapping[str, Sequence[Any]]) -> None:
        self.values = values


class Numbered(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows with their sentence's number: draws belong to sentences, not to places in a batch."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {ID: index, **self.rows[index]}

    def labels(self) -> Any:
        """The labels of all rows, one after the other."""
        return self._column("labels")

    def sources(self) -> Any:
        """The source ids of all rows, one after the other."""
        return self._column("input_ids")

    def _column(self, name: str) -> Any:
        if hasattr(self.rows, "column_names"):
            return iter(self.rows[name])
        return (row[name] for row in self.rows)


class Collator:
    """A data collator that knows the model's columns only, with numbers and other columns beside
    it.
    """

    def __init__(self, inner: Callable[[list[Any]], Any], columns: Sequence[str]) -> None:
        self.inner, self.columns = inner, frozenset(columns)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        known = [{name: row[name] for name in row if name in self.columns} for row in rows]
        batch = dict(self.inner(known))
        if ID in rows[0]:
            others = [name for name in rows[0] if name not in self.columns and name != ID]
            batch[ID] = torch.tensor([row[ID] for row in rows])
            batch[COLUMNS] = Columns({name: [row[name] for row in rows] for name in others})
        return batch


def check_map_style(dataset: Any) -> None:
    """Raises ValueError for a dataset whose rows have no number."""
    iterable = isinstance(dataset, torch.utils.data.IterableDataset)
    if iterable or not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
        raise ValueError(
            "train_dataset is a stream, whose sentences have no numbers for draws to belong to: "
            "give a list of rows, or a datasets.Dataset loaded without streaming"
        )
    if len(dataset) == 0:
        raise ValueError("train_dataset has no rows")


class Cuts(NamedTuple):
    """At how many tokens texts are cut."""

    source: int
    target: int


def cuts_of(model: Any, args: Any) -> Cuts:
    """As told, and not beyond the model's positions."""
    rooms = [positions_of(model, side) for side in ("encoder", "decoder")]
    told = (args.max_source_length, args.max_target_length)
    return Cuts(*(min(t, t if r is None else r) for t, r in zip(told, rooms, strict=True)))


def check_sources(data: Numbered, model: Any) -> None:
    """Raises ValueError for a tokenised source with more tokens than the encoder has positions."""
    room = positions_of(model, "encoder")
    for number, row in enumerate(data.sources() if room is not None else ()):
        if room is not None and len(row) > room:
            raise ValueError(
                f"the source of sentence {number} has {len(row)} tokens, and the model has {room} "
                "positions: cut it"
            )


def tokenised(dataset: Any, tokenizer: Any, args: Any, cuts: Cuts) -> Any:
    """The same dataset with `input_ids` and `labels`; those that have them are left as they are.

    Raises ValueError that names the columns which are missing.
    """
    if dataset is None or isinstance(dataset, torch.utils.data.IterableDataset):
        return dataset
    if isinstance(dataset, dict):
        return {name: tokenised(part, tokenizer, args, cuts) for name, part in dataset.items()}
    names = list(getattr(dataset, "column_names", None) or dataset[0])
    if "input_ids" in names and "labels" in names:
        return dataset
    wanted = (args.source_column, args.target_column)
    if not set(wanted) <= set(names):
        raise ValueError(
            f"the dataset has the columns {', '.join(names)}: name two of them with "
            f"--source-column and --target-column, or give input_ids and labels"
        )
    if tokenizer is None:
        raise ValueError("a dataset of texts needs processing_class=, the model's tokenizer")

    def encode(texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        return encoded([texts[name] for name in wanted], tokenizer, args.source_prefix, cuts)

    if hasattr(dataset, "map"):
        return dataset.map(encode, batched=True, desc="tokenising")
    texts = {name: [row[name] for row in dataset] for name in wanted}
    sides = encode(texts)
    return [
        {**row, **{name: values[number] for name, values in sides.items()}}
        for number, row in enumerate(dataset)
    ]


def encoded(
    sides: Sequence[Sequence[str]], tokenizer: Any, prefix: str, cuts: Cuts
) -> dict[str, Any]:
    """Source and target texts as ids.  `text_target` is what NLLB, mBART and Marian need."""
    sources = [prefix + text for text in sides[0]]
    read = tokenizer(sources, truncation=True, max_length=cuts.source)
    written = tokenizer(text_target=list(sides[1]), truncation=True, max_length=cuts.target)
    return {
        "input_ids": read["input_ids"],
        "attention_mask": read["attention_mask"],
        "labels": written["input_ids"],
    }
