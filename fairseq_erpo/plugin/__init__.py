"""The part that trains with fairseq: criterions, its batches and models as plain tensors, the
clock, checkpoints, the log.
"""
