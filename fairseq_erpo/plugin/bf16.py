"""`--bf16` on a GPU: fairseq takes the flag for a TPU's, and then asks for torch_xla."""

import functools
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import Any

import torch
from fairseq import options

fairseqs_parse = options.parse_args_and_arch


@functools.wraps(fairseqs_parse)
def parse(
    parser: ArgumentParser, input_args: Sequence[str] | None = None, *more: Any, **named: Any
) -> Any:
    """fairseq's `parse_args_and_arch`; a TPU is used only where `--tpu` asks for it or no GPU is
    there.
    """
    found = fairseqs_parse(parser, input_args, *more, **named)
    args: Namespace = found[0] if isinstance(found, tuple) else found
    words = sys.argv[1:] if input_args is None else input_args
    if torch.cuda.is_available() and "--tpu" not in words:
        args.tpu = False
    return found


options.parse_args_and_arch = parse
