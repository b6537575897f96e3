"""fairseq imports this folder by itself for `--user-dir fairseq_erpo`; the criterions and safe checkpoints come along."""

from fairseq_erpo import compat, criterions, saving  # noqa: F401
