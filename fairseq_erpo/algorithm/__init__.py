"""The algorithm on plain tensors: the steps of the paper, without a framework.

What a framework has to bring is a model behind `answers.StepDecoder`, a `batch.Batch`, and the
log-probabilities that are learnt. One update of any row is then

    drawn = row.draw(batch)  # E-step; None stands for the data: draw.gold(batch)
    drawn = row.weigh(batch, drawn)
    # N = B·S decoder inputs, S copies of each source adjacent
    inputs = previous_tokens(drawn.sample.tokens, vocabulary)
    at = drawn.learnt.flatten().ne(vocabulary.pad).nonzero()[:, 0]
    log_p = ...  # with gradient, [m, V] at `at` of the model's [N·T, V]
    loss, _ = mstep.total_loss(log_p, drawn, at, batch.target, vocabulary, settings.label_smoothing)

divided by `drawn.size`, or by len(at) where that is None.  Sample without dropout and without
gradient.  `inputs.PlainInputs` serves as `Batch.inputs` where nothing else is at hand, and
`settings.schedule` says what λ is at (epoch, update, falls).

fairseq_erpo/plugin does this with fairseq, fairseq_erpo/huggingface with transformers.
"""
