"""Time of the four-feature objective, forward and backward, without the networks.

    python tests/benchmarks/bench_objective.py [--bs 112] [--device cpu] [--seconds 6]

Each summand and the whole, as the epoch loop computes them from unit embeddings, beside
pytorch-metric-learning's margin loss with its distance-weighted miner on one head. Then what a
step does to the parameters of a ResNet50: gradient statistics, momentum update, optimiser, sums of
scalars; each beside the loop over parameters that one would write first. At last how time and
memory of the objective grow with batch, queue and number of features, and what costs most.
"""

import argparse
import copy
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.nn.functional as F
import torchvision
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn

import parameters
from criteria import features, selfsimilarity
from datasets import Batch
from tests.benchmarks import timing
from utilities.monitor import Monitor, gradient_statistics

N_CLASSES, DIM = 100, 128
GUEST = "pytorch-metric-learning"
FOUR = ["discriminative", "selfsimilarity", "shared", "intra"]


class Given(nn.Module):
    """In place of a network: its images are the embeddings."""

    feature_dim = DIM

    def __init__(self, names: list[str]):
        super().__init__()
        self.names, self.one = names, nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        return dict.fromkeys(self.names, images), images


class Objective:
    """The summands of a published run on random unit embeddings; `names` are its features."""

    def __init__(self, names: list[str], *, bs: int, key_batches: int = 30, device: str = "cpu",
                 dim: int = DIM):
        opt = parameters.read_arguments([
            "--diva_features", *names, "--arch", "resnet50_frozen_normalize", "--bs", str(bs),
            "--samples_per_class", "2", "--embed_dim", str(dim), "--diva_sharing", "random",
            "--diva_ssl", "fast_moco", "--diva_moco_n_key_batches", str(key_batches),
            "--diva_moco_temperature", "0.01", "--diva_rho_decorrelation", "1500"])
        torch.manual_seed(0)
        network = Given(names)
        self.objective = features.assemble(opt, network=network, n_classes=N_CLASSES,
                                           n_samples=bs).to(device)

        def unit() -> Tensor:
            return F.normalize(torch.randn(bs, dim, device=device), dim=1)

        labels = torch.randperm(N_CLASSES, device=device)[:bs // 2 % N_CLASSES or None]
        self.labels = labels.repeat_interleave(2).repeat(bs)[:bs]
        self.embeddings = {name: unit().requires_grad_() for name in names}
        batch = Batch(self.labels, unit(), torch.arange(bs, device=device), unit(), None, None)
        keys = {"selfsimilarity": batch.second_views}
        self.step = features.Step(batch, self.embeddings, batch.images, {}, keys)
        for feature in self.objective:
            if isinstance(feature, selfsimilarity.Feature):
                for _ in range(key_batches):
                    feature.criterion.enqueue(unit())

    def whole(self) -> None:
        """As in the epoch loop."""
        terms = {feature.name: feature.loss(self.step) for feature in self.objective}
        total = sum(feature.weight * terms[feature.name] for feature in self.objective)
        self.backward(total)

    def summand(self, feature: features.Feature) -> None:
        self.backward(feature.weight * feature.loss(self.step))

    def backward(self, total: Tensor) -> None:
        for tensor in (*self.embeddings.values(), *self.objective.parameters()):
            tensor.grad = None
        total.backward()


class Guest:
    """The guest's margin loss with learned betas and its miner, on one head."""

    def __init__(self, objective: Objective):
        self.labels = objective.labels
        self.embeddings = objective.embeddings["discriminative"].detach().clone().requires_grad_()
        self.miner = miners.DistanceWeightedMiner(cutoff=0.5, nonzero_loss_cutoff=1.4)
        self.loss = losses.MarginLoss(margin=0.2, beta=1.2, learn_beta=True,
                                      num_classes=N_CLASSES).to(self.labels.device)

    def __call__(self) -> None:
        self.embeddings.grad = self.loss.beta.grad = None
        self.loss(self.embeddings, self.labels, self.miner(self.embeddings, self.labels)).backward()


def summands(bs: int, device: str, seconds: float) -> None:
    ours = Objective(FOUR, bs=bs, device=device)
    calls = {GUEST: Guest(ours), "whole objective": ours.whole}
    calls |= {feature.name: lambda feature=feature: ours.summand(feature)
              for feature in ours.objective}
    times = timing.in_turns(calls, seconds=seconds)
    timing.compare(f"batch {bs}, {timing.describe(device)}", times, to=GUEST)


def statistics_one_by_one(network: nn.Module) -> tuple[float, float]:
    """As the original computes them."""
    gradients = [p.grad.detach().cpu().numpy().flatten() for p in network.parameters()]
    together = torch.cat([torch.from_numpy(gradient) for gradient in gradients]).numpy()
    return float((together**2).mean() ** 0.5), float(abs(together).max())


@torch.no_grad()
def momentum_one_by_one(keys: nn.Module, network: nn.Module, momentum: float) -> None:
    for key, query in zip(keys.parameters(), network.parameters(), strict=True):
        key.copy_(key * momentum + query * (1 - momentum))


def parameters_of_a_step(device: str, seconds: float) -> None:
    """What a step does to 25 million parameters beside forward and backward."""
    network = torchvision.models.resnet50().to(device)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    keys = selfsimilarity.Feature("selfsimilarity", Nothing(), 1.0, network=network,
                                  momentum=0.99, n_key_batches=1)
    step = features.Step(None, {}, None, {}, {"selfsimilarity": None})
    copy_, everything = copy.deepcopy(network), list(network.parameters())
    optimisers = {
        f"Adam, {kind}": torch.optim.Adam(everything, lr=1e-5, weight_decay=4e-4, **{kind: True})
        for kind in ("fused", "foreach")}
    scalars = {str(i): torch.zeros((), device=device) for i in range(6)}
    monitor, batch = Monitor(20), torch.arange(112, device=device)
    optimisers["Adam, a loop"] = torch.optim.Adam(everything, lr=1e-5, weight_decay=4e-4,
                                                  foreach=False)
    times = timing.in_turns({
        "gradient statistics": lambda: gradient_statistics(everything),
        "gradient statistics, a loop": lambda: statistics_one_by_one(network),
        "momentum update": lambda: keys.after_step(step, network),
        "momentum update, a loop": lambda: momentum_one_by_one(copy_, network, 0.99),
        "sums of scalars": lambda: monitor.add(scalars, scalars, batch),
        **{name: optimiser.step for name, optimiser in optimisers.items()},
    }, seconds=seconds)
    timing.compare(f"ResNet50's parameters, {timing.describe(device)}", times,
                   to="momentum update")


SCALES = {  # batch, batches of keys, features
    **{f"batch {bs}, queue {3360 // bs * bs:,}": (bs, 3360 // bs, FOUR)
       for bs in (64, 112, 256, 512, 1024)},
    **{f"queue {112 * n:,}, batch 112": (112, n, FOUR) for n in (9, 36, 146, 585)},
    **{f"{n} features, batch 112, queue 3,360": (112, 30, FOUR[:n]) for n in (1, 2, 3, 4)},
}


def scales(device: str, seconds: float) -> None:
    """What the objective's cost grows with, one quantity at a time."""
    rows = []
    for title, (bs, key_batches, names) in SCALES.items():
        ours = Objective(names, bs=bs, key_batches=key_batches, device=device)
        calls = {"": ours.whole} | {feature.name: lambda feature=feature, ours=ours:
                                    ours.summand(feature) for feature in ours.objective}
        times = timing.in_turns(calls, seconds=seconds / len(SCALES))
        whole = times.pop("").smallest
        most = max(times, key=lambda name: times[name].smallest)
        share = times[most].smallest / sum(t.smallest for t in times.values())
        rows.append([title, f"{1e3 * whole:.2f}", f"{most}, {100 * share:.0f} %",
                     f"{kept_for_backward(ours) / 2**20:.1f}"])
    timing.table([f"the objective, {timing.describe(device)}", "ms, smallest", "costs most",
                  "MB kept for backward"], rows)


def kept_for_backward(ours: Objective) -> int:
    """Bytes of the tensors that the forward pass keeps, each once, the queue among them."""
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        ours.whole()
    return sum(kept.values())


class Nothing(nn.Module):
    """In place of a criterion with a queue."""

    def enqueue(self, keys: Tensor) -> None:
        """Keeps nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bs", type=int, default=112, help="images in a batch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=6, help="for each table, about")
    options = parser.parse_args()
    # As in a process that trains: once a tensor this large was freed, glibc keeps smaller ones.
    torch.ones(31 * 2**18)
    for threads in (1, 2) if options.device == "cpu" else (torch.get_num_threads(),):
        torch.set_num_threads(threads)
        summands(options.bs, options.device, options.seconds)
        parameters_of_a_step(options.device, options.seconds)
    scales(options.device, 2 * options.seconds)


if __name__ == "__main__":
    main()
