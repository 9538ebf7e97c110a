"""Evaluation: embeds a split once, derives every evaltype from it, calls the metrics, and keeps
the best checkpoints and pictures of retrievals. `evaltypes` is the grammar of `--evaltypes`.
"""
