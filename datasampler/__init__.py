"""Samplers: the dataset indices of each batch. Iterating gives lists of `--bs` indices."""

from __future__ import annotations

from utilities import registry

SAMPLERS = {
    "class_random": "datasampler.class_random",
    "class_random_unique": "datasampler.class_random",
    "random": "datasampler.random",
    "full_random": "datasampler.random",
    "rrandom": "datasampler.random",
    "random_semi_class": "datasampler.random",
    "fid_batchmatch": "datasampler.batchmatch",
    "spc_fid_batchmatch": "datasampler.batchmatch",
    "distmoment_batchmatch": "datasampler.batchmatch",
    "firstmoment_batchmatch": "datasampler.batchmatch",
    "disthist_batchmatch": "datasampler.batchmatch",
    "criterion_batchmatch": "datasampler.batchmatch",
    "greedy_coreset": "datasampler.greedy_coreset",
    "full_greedy_coreset": "datasampler.greedy_coreset",
    "d2_coreset": "datasampler.d2_coreset",
}
# Samplers that keep an embedding of every training image.
STORAGE = {name for name in SAMPLERS if "batchmatch" in name or "coreset" in name}
# Samplers that draw whole groups of --samples_per_class images.
BY_CLASS = {"class_random", "class_random_unique"} | STORAGE - {"full_greedy_coreset"}


def select(name: str, opt, dataset):
    """The batch sampler called `name` over `dataset`; UserError for a name that does not exist."""
    return registry.load(SAMPLERS, name, flag="--data_sampler").Sampler.from_opt(name, opt, dataset)
