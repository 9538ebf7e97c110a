"""The loop that embeds a dataset."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from utilities.distributed import ALONE, Alone
from utilities.errors import TrainingError
from utilities.geometry import unusable_rows


def embed(network: nn.Module, loader, features: Sequence[str] | None, *, epoch: int = 0,
          device: torch.device | str | None = None, processes: Alone = ALONE,
          everywhere: bool = False) -> Tensor | None:
    """Every image of `loader`'s dataset, in file order, as the heads `features` side by side; as
    the trunk where features is None.

    device: where the result goes, by default where the network computes. Returns (N, total width)
    float32, allocated once. Of several processes, each of which embeds a block, only the first
    gets it and the others None, unless `everywhere`. The network computes in evaluation mode and
    each of its modules then returns to the mode it was in. TrainingError, naming the first image,
    when an embedding is not finite or too large to be compared.
    """
    n_images, embeddings, done = len(loader.dataset), None, 0
    n_own = len(processes.block(n_images))
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        for batch in tqdm(loader.epoch(epoch), "Embedding", len(loader), leave=False, disable=None,
                          unit="batch"):
            with torch.inference_mode():
                heads, trunk = network(batch.images)
                rows = torch.cat([trunk] if features is None else
                                 [heads[feature] for feature in features], dim=1)
            if embeddings is None:  # outside inference mode, so that others may write into it
                embeddings = torch.empty(n_own, rows.shape[1], device=rows.device)
            embeddings[done:done + len(rows)] = rows
            done += len(rows)
    finally:
        for module, mode in modes.items():
            module.training = mode
    assert done == n_own, f"the loader gave {done} of {n_own} images"
    embeddings = processes.collect(embeddings, n_images, everywhere=everywhere)
    if embeddings is None:
        return None
    rows, why = unusable_rows(embeddings)
    if len(rows):
        first = loader.dataset.paths[int(rows[0])]
        raise TrainingError(f"the embeddings of {len(rows):,} of {n_images:,} images {why}, that "
                            f"of {first!r} first")
    return embeddings if device is None else embeddings.to(device)
