"""The family: each algorithm of the paper is one row of data (sections 3-4), run by one engine.

loss = - Σ_t w_t log p_θ(target_t | inputs_<t), always.  A row says how sequences are drawn and how
their tokens are weighed, and nothing else.  A row of your own is one call:

    from dataclasses import replace

    import fairseq_erpo.tasks
    from fairseq_erpo import FAMILY, register_row

    register_row(
        replace(
            FAMILY["interp"],
            name="half_model",
            page="Half of all tokens come from the model, half from the reward.",
            flags=("erpo_reward", "erpo_c"),
            defaults={
                "erpo_preset": "paper",
                "erpo_schedule": "constant",
                "erpo_lambda": "model=.5,reward=.5",
            },
        )
    )

in the `__init__.py` of a folder of yours, which then is the --user-dir: `fairseq-train ...
--criterion erpo_half_model`.
"""

from fairseq_erpo.family.row import FAMILY, Row, add_row
from fairseq_erpo.family.rows import INTERP

__all__ = ["FAMILY", "INTERP", "Row", "add_row"]
