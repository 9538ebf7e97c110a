"""Evaluation: embeds a split once, derives every evaltype, computes the metrics, and chooses the
best epochs, which `pictures` draws. `evaltypes` is the grammar of `--evaltypes`.

Tools that read runs and use their networks: `summarize`, `report`, `ensemble`, `embed`, `search`,
`export`.
"""
