"""Entropy-regularised policy optimisation for sequence prediction, as a fairseq plugin.

Importing this package stays light: fairseq is imported by `fairseq_erpo.tasks`, which `--user-dir` loads.
"""

__version__ = "0.1.0"
