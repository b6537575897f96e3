"""CUDA graphs of whole scans: a batch is drawn by a handful of launches instead of thousands.

A scan of a batch of some shape is recorded when that shape comes for the second time, STRIDE
positions a graph, and replayed from then on: its inputs are copied into the tensors that the
recording read, and the graphs run one after the other until all sentences have ended.  Batches
are filled up to one of few shapes before.  What is drawn is what the same operations draw one by
one.

N sentences, T steps, R reference positions, S source positions, D features.
"""

import copy
import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils._pytree import tree_flatten, tree_unflatten

from fairseq_erpo.algorithm.answers import (
    Answers,
    AnswersForAll,
    NoAnswers,
    StepDecoder,
    outside_inference_mode,
)
from fairseq_erpo.algorithm.batch import Expert, Sample
from fairseq_erpo.algorithm.sampler import STRIDE, Request, Sampler, Scan, ask, experts_of
from fairseq_erpo.algorithm.uniforms import Draws
from fairseq_erpo.rewards.base import Reference

LOG = logging.getLogger(__name__)
MOST = 32  # recordings that are kept
STEP = 8  # lengths are filled up to a multiple of it


@dataclass
class Recording:
    """One shape: the tensors that its graphs read, and the scan as each graph leaves it."""

    inputs: list[Tensor]
    chunks: list[tuple[torch.cuda.CUDAGraph, Scan]]

    def replay(self, inputs: list[Tensor]) -> Sample:
        """Draw from other inputs of the same shapes."""
        for static, given in zip(self.inputs, inputs, strict=True):
            static.copy_(given)
        for graph, left in self.chunks:
            graph.replay()
            if not bool(left.live.any()):
                break
        return left.sample()


class Graphs:
    """A `Recorder`: the recordings of a run."""

    def __init__(self) -> None:
        self.recordings: OrderedDict[Hashable, Recording | None] = OrderedDict()
        self.met: set[Hashable] = set()
        self.pool: Any = None
        self.replays = 0

    def draw(
        self,
        sampler: Sampler[Any],
        reference: Reference,
        origin: Tensor,
        caps: Tensor,
        draws: Draws,
        start: Callable[[], StepDecoder],
    ) -> Sample:
        """As `Sampler.draw`."""
        experts = experts_of(origin)
        decoder: Any = None
        if ask(experts):
            with outside_inference_mode():
                decoder = start()
        reads = () if decoder is None else getattr(decoder, "inputs", None)
        # Whose cast weights no graph may keep
        if reads is None or torch.is_autocast_enabled("cuda"):
            request = Request.make(reference, origin, caps, draws, sampler.vocabulary, experts)
            return one_by_one(Scan(sampler, request, answers(decoder)))
        rows, width = origin.size(0), reference.tokens.size(1)
        request = roomy(sampler, reference, origin, caps, draws, experts)
        leaves, shape = tree_flatten((request, roomy_source(reads, len(request.caps))))
        inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        sizes = tuple((tuple(leaf.shape), leaf.dtype) for leaf in inputs)
        key = (sampler, experts, None if decoder is None else decoder.key, sizes)

        def scan(leaves: list[Any]) -> Scan:
            request, reads = tree_unflatten(leaves, shape)
            if decoder is None:
                return Scan(sampler, request, NoAnswers())
            with outside_inference_mode():
                return Scan(sampler, request, answers(decoder.rebuilt(reads)))

        recording = self._recording(key, leaves, scan)
        if recording is None:
            sample = one_by_one(scan(leaves))
        else:
            self.replays += 1
            sample = recording.replay(inputs)
        return without_room(sample, rows, width)

    def _recording(
        self, key: Hashable, leaves: list[Any], scan: Callable[[list[Any]], Scan]
    ) -> Recording | None:
        """The recording of this key, made when it comes for the second time."""
        if key in self.recordings:
            self.recordings.move_to_end(key)
            return self.recordings[key]
        if key not in self.met:
            self.met.add(key)
            return None
        try:
            self.recordings[key] = self._record(leaves, scan)
        except RuntimeError as error:  # of an operation that no graph can hold
            LOG.warning(f"no CUDA graphs of this model's draws, which are slower without: {error}")
            self.recordings[key] = None
        if len(self.recordings) > MOST:
            self.recordings.popitem(last=False)
        return self.recordings[key]

    def _record(self, leaves: list[Any], scan: Callable[[list[Any]], Scan]) -> Recording:
        """The graphs of one scan; nothing is computed yet."""
        static = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream()
        chunks: list[tuple[torch.cuda.CUDAGraph, Scan]] = []
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            running: Any = None
            first, steps = 0, STRIDE
            while first < steps:
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    running = running or scan(static)
                    steps = running.request.origin.size(1)
                    for t in range(first, min(first + STRIDE, steps)):
                        running.position(t)
                finally:
                    graph.capture_end()
                chunks.append((graph, copy.copy(running)))
                first += STRIDE
        torch.cuda.synchronize()
        return Recording([leaf for leaf in static if isinstance(leaf, Tensor)], chunks)


def answers(decoder: Any) -> Answers:
    return NoAnswers() if decoder is None else AnswersForAll(decoder)


def one_by_one(scan: Scan) -> Sample:
    scan.run(STRIDE)
    return scan.sample()


def room_for(rows: int) -> int:
    """The number of sentences that a batch is filled up to: an eighth more at most, or a multiple
    of 8.
    """
    step = max(8, 1 << max(rows.bit_length() - 4, 0))
    return -(-rows // step) * step


def roomy(
    sampler: Sampler[Any],
    reference: Reference,
    origin: Tensor,
    caps: Tensor,
    draws: Draws,
    experts: frozenset[int],
) -> Request:
    """The batch filled up with sentences that end before they begin, and with steps behind all
    caps.
    """
    rows = room_for(len(caps))
    width, steps = (-(-size // STEP) * STEP for size in (reference.tokens.size(1), origin.size(1)))
    more = rows - len(caps)
    return Request.make(
        reference.roomy(rows, width, sampler.vocabulary.pad),
        pad(origin, (0, steps - origin.size(1), 0, more), value=int(Expert.NONE)),
        pad(caps, (0, more)),
        draws._replace(ids=pad(draws.ids, (0, more))),
        sampler.vocabulary,
        experts,
    )


def roomy_source(reads: tuple[Tensor, ...], rows: int) -> tuple[Tensor, ...]:
    """The encoder's output [S, N, D] and its padding [N, S], filled up likewise."""
    if not reads:
        return reads
    source, padding = reads
    length, count = source.shape[:2]
    more, further = rows - count, -(-length // STEP) * STEP - length
    padding = pad(padding, (0, further), value=True)  # a sentence of fill has a source of its own
    return pad(source, (0, 0, 0, more, 0, further)), pad(padding, (0, 0, 0, more))


def without_room(sample: Sample, rows: int, width: int) -> Sample:
    """The sample of the sentences that were there; their references are `width` long."""

    def cut(part: Tensor | None, behind: int) -> Tensor | None:
        """A part whose last dimension is the reference's, and so many more."""
        if part is None:
            return None
        return torch.cat([part[..., :width], part[..., part.size(-1) - behind :]], -1)

    found = Sample(*(None if part is None else part[:rows] for part in sample))  # type: ignore[arg-type]
    return found._replace(reward_log_q=cut(found.reward_log_q, 2))
