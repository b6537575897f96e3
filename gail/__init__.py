"""The same annealer on PPO: GAIL whose policy update is annealed from demonstrations to RL.

Nothing stands here yet.
"""
