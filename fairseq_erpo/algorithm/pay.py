"""The reward of whole sequences: --erpo-reward pays them, whatever --erpo-teacher said about each
next token.
"""

from fairseq_erpo.algorithm.batch import Batch, Sample
from fairseq_erpo.rewards.base import Reference


def paid(batch: Batch, sample: Sample, samples: int) -> Sample:
    """The sample with R of --erpo-reward: the sum of its own ΔR, or the score of the text.  S
    samples of each sentence
    """
    settings = batch.settings
    if settings.reward is settings.teacher:
        return sample
    if isinstance(settings.reward, str):
        return sample._replace(reward=batch.inputs.text_reward(sample.tokens, samples))
    reference = Reference.from_target(batch.copies(samples)[0], batch.vocabulary)
    return sample._replace(reward=settings.reward.total(reference, sample.tokens, batch.vocabulary))
