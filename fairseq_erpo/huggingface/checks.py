"""What cannot be trained, said in one line before training."""

from typing import Any

from fairseq_erpo.huggingface.config import ErpoConfig


def check_run(model: Any, args: ErpoConfig) -> None:
    """Raises ValueError that names what is in the way, and the fix."""
    if not isinstance(args, ErpoConfig):
        raise ValueError(f"args must be an ErpoConfig, not {type(args).__name__}")
    if not getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} is no encoder-decoder model: use one such as T5, BART, "
            "Marian, mBART, NLLB or Pegasus"
        )
    if args.n_gpu > 1:
        raise ValueError(
            f"{args.n_gpu} GPUs in one process would be DataParallel: start with torchrun "
            f"--nproc-per-node {args.n_gpu}, or set CUDA_VISIBLE_DEVICES=0"
        )
    if args.fsdp:
        raise ValueError("--fsdp needs equally many forward passes on each rank: leave it out")
    if args.deepspeed and _stage(args) == 3:
        raise ValueError(
            "DeepSpeed's ZeRO-3 needs equally many forward passes on each rank: use stage 2"
        )
    _check_adapters(model)


def _stage(args: ErpoConfig) -> Any:
    plugin = args.deepspeed_plugin
    return plugin.zero_stage if plugin is not None else None


def _check_adapters(model: Any) -> None:
    for adapter in getattr(model, "peft_config", {}).values():
        if getattr(adapter, "is_prompt_learning", False):
            raise ValueError(
                f"{adapter.peft_type.value} puts tokens of its own before the decoder's: use LoRA"
            )
