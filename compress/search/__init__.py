"""Greedy search for the layers that translation can spare: who is removed, how it is scored, how it is made fast.

- greedy: the search itself, pure: it takes a scorer and knows no model
- log: every evaluation on disk, so that a killed search goes on
- metrics: corpus scores, and the best that a half-scored candidate can still reach
- bench: a model, and the exam that all candidates sit
- single: scorers that look at one candidate at a time, the paper's among them
- race: the same layers and scores from shared work
- prompts, lanes, network: what is shared, what is decoded together, and the layers themselves
- scorers, workers: from a recipe's words to a scorer, in this process or in several
- baselines: layers chosen without any search
- figure: a picture of it
"""
