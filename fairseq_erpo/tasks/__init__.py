"""fairseq imports this folder by itself for `--user-dir fairseq_erpo`; the criterions come along."""

from fairseq_erpo import compat, criterions  # noqa: F401
