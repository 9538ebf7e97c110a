"""Samplers: the dataset indices of each batch. Iterating gives lists of `--bs` indices."""

from utilities import registry

# Samplers that keep an embedding of every training image.
STORAGE = {
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
SAMPLERS = {
    "class_random": "datasampler.class_random",
    "class_random_unique": "datasampler.class_random",
    "random": "datasampler.random",
    "full_random": "datasampler.random",
    "rrandom": "datasampler.random",
    "random_semi_class": "datasampler.random",
    **STORAGE,
}
# Samplers that draw whole groups of --samples_per_class images.
BY_CLASS = {"class_random", "class_random_unique", *STORAGE} - {"full_greedy_coreset"}


def group_size(opt) -> int:
    """How many images of a class `--data_sampler` draws together."""
    if opt.data_sampler in BY_CLASS:
        return opt.samples_per_class
    return 2 if opt.data_sampler == "random_semi_class" else 1


def examples(opt, n_classes: int) -> dict[str, list[int]]:
    """Labels of batches that `--data_sampler` can draw from `n_classes` classes, by what is special
    about each; "" is an ordinary batch."""
    name, size = opt.data_sampler, group_size(opt)
    groups = [group % n_classes for group in range(opt.bs // size)]
    drawn = {"": groups}
    if name != "class_random_unique":
        drawn |= {"a class drawn twice": [0, *groups[:-1]], "one class alone": [0] * len(groups)}
    batches = {what: [label for label in classes for _ in range(size)]
               for what, classes in drawn.items()}
    if name in ("rrandom", "full_greedy_coreset"):      # their last image is of a class before
        batches = {what: [*labels[:-1], labels[0]] for what, labels in batches.items()}
    return batches


def select(name: str, opt, dataset):
    """The batch sampler called `name` over `dataset`; UserError for a name that does not exist."""
    return registry.load(SAMPLERS, name, flag="--data_sampler").Sampler.from_opt(name, opt, dataset)
