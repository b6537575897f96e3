"""A model and a task are what the draws take them for: asked of the first batch, before anything is
drawn.

Draws ask the decoder step by step, and the loss reads targets in pieces (`forward.in_pieces`).
Both are right where they find the probabilities of the model's own forward pass, and where the
task's targets are words and EOS, read behind an EOS.

B sentences, T steps, V words, m positions that are not padding.
"""

from typing import Any

import torch
from torch import Tensor

from fairseq_erpo.algorithm.batch import previous_tokens
from fairseq_erpo.algorithm.packing import Packing
from fairseq_erpo.files import reason_of
from fairseq_erpo.plugin.decoder import IncrementalDecoder, reordered, sampling_mode, unwrapped
from fairseq_erpo.plugin.forward import Encoded, in_pieces
from fairseq_erpo.vocabulary import Vocabulary

# The largest difference of log p that rounding explains. Another distribution differs by more, at
# random weights too.
TOLERANCE = {torch.float32: 0.02, torch.float16: 0.3, torch.bfloat16: 1.0}
INSTEAD = "choose another --arch, such as transformer, or --criterion erpo_mle, which draws nothing"


def check_targets(sample: dict[str, Any], vocabulary: Vocabulary) -> None:
    """Raises ValueError unless the targets are sequences that the draws could make."""
    target, read = sample["target"], sample["net_input"]["prev_output_tokens"]
    padding = target.eq(vocabulary.pad)
    never = torch.tensor(
        [word for word in vocabulary.never if word != vocabulary.pad], device=target.device
    )
    last = target.gather(1, target.ne(vocabulary.pad).sum(1, keepdim=True) - 1)
    drawable = (
        not torch.isin(target, never).any()
        and last.eq(vocabulary.eos).all()
        and not padding[:, :1].any()
    )
    if not drawable or not torch.equal(read, previous_tokens(target, vocabulary)):
        raise ValueError(
            "the --task has targets that are not words and </s>, read behind a </s>, as draws are: "
            "choose --task erpo_translation, or --criterion erpo_mle, which draws nothing"
        )


def check_decoder(model: Any, sample: dict[str, Any], pad: int) -> None:
    """Raises ValueError if the model has other probabilities step by step, or in pieces, than in
    its forward pass.
    """
    inner = unwrapped(model)
    name, inputs = type(inner).__name__, sample["net_input"]
    packing = Packing.from_targets(sample["target"], pad)
    device = inputs["src_tokens"].device.type
    with sampling_mode(inner), torch.autocast(device, enabled=False):
        whole = inner.get_normalized_probs(inner(**inputs), log_probs=True)  # [B, T, V]
        try:
            with in_pieces(inner, packing, 1):
                pieces = inner.get_normalized_probs(inner(**inputs), log_probs=True)[0]  # [m, V]
            steps, rows = step_by_step(inner, sample)
        except Exception as error:  # the models' own, of any kind
            raise ValueError(
                f"nothing can be drawn from {name} ({reason_of(error)}): {INSTEAD}"
            ) from None
    real = sample["target"][rows].ne(pad)
    for found, wanted in (
        (pieces, whole.flatten(0, 1)[packing.at]),
        (steps[real], whole[rows][real]),
    ):
        difference = (found.float() - wanted.float()).abs()
        # Words of probability zero are so in both.
        most = (
            float(difference[wanted.isfinite()].max())
            if found.isfinite().equal(wanted.isfinite())
            else torch.inf
        )
        if not most <= TOLERANCE.get(next(inner.parameters()).dtype, 1.0):
            raise ValueError(
                f"nothing can be drawn from {name}: read word by word, its log p differ by "
                f"{most:.2g} from those that it trains; {INSTEAD}"
            )


def step_by_step(model: Any, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """log p of the first and the last sentence, and which they are.  -> [2, T, V], [2] int64

    A third copy is dropped on the way, as sentences are that have ended.
    """
    read = sample["net_input"]["prev_output_tokens"]
    rows = torch.tensor([0, len(read) - 1], device=read.device)
    three = rows[[0, 0, 1]]
    decoder = IncrementalDecoder(
        model, reordered(model.encoder, Encoded(model, sample).read(1), three)
    )
    found = [decoder.log_probs(decoder.step(read[three, :1]))[1:]]
    decoder.keep(torch.tensor([1, 2], device=read.device))
    found += [decoder.log_probs(decoder.step(read[rows, :t])) for t in range(2, read.size(1) + 1)]
    return torch.stack(found, 1), rows
