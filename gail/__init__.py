"""The same annealer on PPO: generative adversarial imitation whose trajectories begin with data, less and less of it.

Section 5.3 of the paper. Importing this package stays light; `python -m gail` lists the verbs, docs/gail.md explains them.
"""
