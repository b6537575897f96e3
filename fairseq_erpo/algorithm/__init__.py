"""The paper on plain tensors: drawing (E-step), weighing and learning (M-step).  Nothing here knows fairseq."""
