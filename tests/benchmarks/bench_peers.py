"""DiVA's program beside pytorch-metric-learning and open-metric-learning, on the same data.

    python tests/benchmarks/bench_peers.py --images <folder>/grocery \
        --weights <folder>/tf_efficientnet_lite0.pth [--oml_python <interpreter>]

Each trains margin loss with distance-weighted mining from the same weights: 512 dimensions,
batches of 25 classes of 4 images, random crops of 96 pixels, Adam, BatchNorm fixed, and evaluates
once. pytorch-metric-learning by its trainer and its tester, open-metric-learning by its datasets,
sampler, inference and metrics around the loop of its documentation, with the loss of
pytorch-metric-learning, as that documentation does. DiVA runs once more with --channels_last, a
switch that the others do not have. Each runs in a process of its own, one after the other, in
another order each round; the ratios hold where the seconds do not.

open-metric-learning wants an older NumPy than this program: `pip install open-metric-learning
omegaconf timm pytorch-metric-learning` into an environment of its own, whose interpreter is
--oml_python. A library that cannot be imported is left out, which is said. Without arguments
nothing is done.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARCH, DIM, CLASSES, EACH, CROP, RESIZE = "tf_efficientnet_lite0", 512, 25, 4, 96, 110
BATCH, LR, HEAD_LR, DECAY, BETA_LR = CLASSES * EACH, 1e-4, 1e-3, 4e-4, 5e-4


def ours(args, *more: str) -> dict:
    sys.path.insert(0, str(ROOT))
    import diva_main
    import parameters

    seconds = {"train": 0.0, "evaluate": 0.0}

    class Timed(diva_main.Training):
        def train_epoch(self, epoch):
            start = time.perf_counter()
            super().train_epoch(epoch)
            seconds["train"] += time.perf_counter() - start

        def evaluate_and_save(self, epoch):
            start = time.perf_counter()
            super().evaluate_and_save(epoch)
            seconds["evaluate"] = time.perf_counter() - start

    with tempfile.TemporaryDirectory() as runs:
        opt = parameters.read_arguments([str(word) for word in (
            "--dataset", args.images.name, "--source_path", args.images.parent,
            "--save_path", runs, "--arch", f"timm:{ARCH}_frozen_normalize",
            "--weights_path", args.weights, "--embed_dim", DIM, "--crop_size", CROP,
            "--resize", RESIZE, "--bs", BATCH, "--samples_per_class", EACH, "--lr", LR,
            "--fc_lr", HEAD_LR, "--decay", DECAY, "--n_epochs", args.epochs,
            "--evaluate_every", args.epochs, "--kernels", args.workers, "--device", "cpu",
            "--seed", args.seed, "--plots", "none", "--diva_features", "discriminative",
            "--evaluation_metrics", "e_recall@1", "mAP_r", "--storage_metrics", "mAP_r", *more)])
        training = Timed(opt)
        assert training.run() == 0
        scores = training.evaluator.last["metrics"]["discriminative"]["Test"]
    return {**seconds, "steps": len(training.loader) * args.epochs, "MAP@R": scores["mAP_r"],
            "Recall@1": scores["e_recall@1"]}


def read_folder(images: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(file, class) of the first half of the class folders, and of the second."""
    folders = sorted((images / "images").iterdir(), key=lambda f: int(f.name.split(".")[0]))
    halves = folders[:len(folders) // 2], folders[len(folders) // 2:]
    return tuple([(str(file), label) for label, folder in enumerate(half)
                  for file in sorted(folder.iterdir())] for half in halves)


def transforms():
    """Those of training and of evaluation, by torchvision."""
    from torchvision import transforms as t

    finish = [t.ToTensor(), t.Normalize([0.5] * 3, [0.5] * 3)]
    how = {"interpolation": t.InterpolationMode.BICUBIC}
    return (t.Compose([t.RandomResizedCrop(CROP, **how), t.RandomHorizontalFlip(), *finish]),
            t.Compose([t.Resize(RESIZE, **how), t.CenterCrop(CROP), *finish]))


def network(weights: Path):
    """Trunk and head of the peers, from the same weights."""
    import timm
    import torch
    from torch import nn

    trunk = timm.create_model(ARCH, num_classes=0)
    state = torch.load(weights, weights_only=True)
    trunk.load_state_dict({name: tensor.float() if tensor.is_floating_point() else tensor
                           for name, tensor in state.items()
                           if not name.startswith("classifier.")})

    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(trunk.num_features, DIM)

        def forward(self, features):
            return nn.functional.normalize(self.linear(features))

    return trunk, Head()


def margin(n_classes: int):
    from pytorch_metric_learning import losses, miners

    return (losses.MarginLoss(margin=0.2, beta=1.2, learn_beta=True, num_classes=n_classes),
            miners.DistanceWeightedMiner(cutoff=0.5))


def pml(args) -> dict:
    import torch
    from PIL import Image
    from pytorch_metric_learning import samplers, testers, trainers
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    class Images(torch.utils.data.Dataset):
        def __init__(self, rows, transform):
            self.rows, self.transform = rows, transform

        def __len__(self):
            return len(self.rows)

        def __getitem__(self, index):
            file, label = self.rows[index]
            return self.transform(Image.open(file).convert("RGB")), label

    torch.manual_seed(args.seed)
    train, test = map(Images, read_folder(args.images), transforms())
    trunk, head = network(args.weights)
    labels = [label for _, label in train.rows]
    loss, miner = margin(len(set(labels)))
    steps = len(train) // BATCH
    optimisers = {"trunk_optimizer": (trunk, LR, DECAY), "embedder_optimizer": (head, HEAD_LR,
                  DECAY), "metric_loss_optimizer": (loss, BETA_LR, 0)}
    trainer = trainers.MetricLossOnly(
        {"trunk": trunk, "embedder": head},
        {name: torch.optim.Adam(module.parameters(), lr=lr, weight_decay=decay)
         for name, (module, lr, decay) in optimisers.items()},
        BATCH, {"metric_loss": loss}, train, mining_funcs={"tuple_miner": miner},
        sampler=samplers.MPerClassSampler(labels, EACH, BATCH, steps * BATCH),
        freeze_trunk_batchnorm=True, dataloader_num_workers=args.workers)
    start = time.perf_counter()
    trainer.train(num_epochs=args.epochs)
    trained = time.perf_counter() - start
    tester = testers.GlobalEmbeddingSpaceTester(
        batch_size=BATCH, dataloader_num_workers=args.workers,
        accuracy_calculator=AccuracyCalculator(
            include=("precision_at_1", "mean_average_precision_at_r"), k="max_bin_count",
            device=torch.device("cpu")))
    start = time.perf_counter()
    scores = tester.test({"test": test}, 0, trunk, head)["test"]
    return {"train": trained, "evaluate": time.perf_counter() - start,
            "steps": steps * args.epochs,
            "MAP@R": scores["mean_average_precision_at_r_level0"],
            "Recall@1": scores["precision_at_1_level0"]}


def oml(args) -> dict:
    import pandas
    import torch
    from oml.datasets import ImageLabeledDataset, ImageQueryGalleryLabeledDataset
    from oml.inference import inference
    from oml.metrics import calc_retrieval_metrics_rr
    from oml.retrieval import RetrievalResults
    from oml.samplers import BalanceSampler

    def table(rows, split):
        return pandas.DataFrame({"path": [file for file, _ in rows], "split": split,
                                 "label": [label for _, label in rows],
                                 "is_query": split == "validation" or None,
                                 "is_gallery": split == "validation" or None})

    torch.manual_seed(args.seed)
    (train_rows, test_rows), (train_view, test_view) = read_folder(args.images), transforms()
    train = ImageLabeledDataset(table(train_rows, "train"), transform=train_view)
    test = ImageQueryGalleryLabeledDataset(table(test_rows, "validation"), transform=test_view)
    trunk, head = network(args.weights)
    model = torch.nn.Sequential(trunk, head)
    loss, miner = margin(len(set(train.get_labels())))
    optimiser = torch.optim.Adam([
        {"params": trunk.parameters(), "lr": LR, "weight_decay": DECAY},
        {"params": head.parameters(), "lr": HEAD_LR, "weight_decay": DECAY},
        {"params": loss.parameters(), "lr": BETA_LR}])
    n_steps, step = len(train) // BATCH * args.epochs, 0
    start = time.perf_counter()
    # An epoch of the sampler shows every class once, which is fewer steps than ours.
    sampler = BalanceSampler(train.get_labels(), CLASSES, EACH)
    batches = [batch for _ in range(n_steps) for batch in sampler][:n_steps]
    loader = torch.utils.data.DataLoader(train, batch_sampler=batches, num_workers=args.workers)
    model.train()
    trunk.apply(lambda module: module.eval() if "BatchNorm" in type(module).__name__ else None)
    for batch in loader:
        embeddings = model(batch["input_tensors"])
        value = loss(embeddings, batch["labels"], miner(embeddings, batch["labels"]))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        step += 1
    trained = time.perf_counter() - start
    start = time.perf_counter()
    model.eval()
    points = inference(model, test, batch_size=BATCH, num_workers=args.workers)
    found = RetrievalResults.from_embeddings(points, test, n_items=max(
        test.get_labels().tolist().count(label) for label in set(test.get_labels().tolist())))
    scores = calc_retrieval_metrics_rr(found, cmc_top_k=(1,), map_top_k=(), precision_top_k=(),
                                       verbose=False)
    seconds = time.perf_counter() - start
    return {"train": trained, "evaluate": seconds, "steps": step,
            "MAP@R": map_at_r(found.retrieved_ids, found.gt_ids), "Recall@1": scores["cmc"][1]}


def map_at_r(retrieved, relevant) -> float:
    """As "A Metric Learning Reality Check" defines it; open-metric-learning has only MAP@k."""
    scores = []
    for found, right in zip(retrieved, relevant, strict=True):
        right, n, hits, total = set(right.tolist()), len(right), 0, 0.0
        for rank, row in enumerate(found[:n].tolist(), 1):
            if row in right:
                hits += 1
                total += hits / rank
        scores.append(total / n)
    return statistics.fmean(scores)


PEERS = {"DiVA": ours, "DiVA --channels_last": lambda args: ours(args, "--channels_last"),
         "pytorch-metric-learning": pml, "open-metric-learning": oml}


def child(args, name: str) -> dict | None:
    """What `name` measured in a process of its own, None where its library is not installed."""
    python = args.oml_python if name == "open-metric-learning" else sys.executable
    done = subprocess.run(
        [python, __file__, "--child", name, "--images", args.images, "--weights", args.weights,
         "--epochs", str(args.epochs), "--workers", str(args.workers), "--seed", str(args.seed)],
        capture_output=True, text=True, check=False)
    if "ModuleNotFoundError" in done.stderr:
        print(f"{name} is left out: {done.stderr.strip().splitlines()[-1]}")
        return None
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder with images/<class>/")
    parser.add_argument("--weights", type=Path, help=f"of timm's {ARCH}")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--oml_python", default=sys.executable)
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not (args.images and args.weights):
        print("left out: it needs --images and --weights (see --help)")
        return
    args.images, args.weights = args.images.absolute(), args.weights.absolute()
    if args.child:
        result = PEERS[args.child](args)
        result["MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("\n" + json.dumps({key: float(value) for key, value in result.items()}))
        return
    results: dict[str, list[dict]] = {name: [] for name in PEERS}
    for turn in range(args.rounds):
        names = list(PEERS)
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            if result := child(args, name):
                results[name].append(result)
    print(f"| {args.epochs} epochs, {args.rounds} rounds, {args.workers} workers | images/s | "
          "peak MB | evaluation s | MAP@R | Recall@1 |\n| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, rounds in results.items():
        if rounds:
            speed = statistics.median(r["steps"] * BATCH / r["train"] for r in rounds)
            cells = [f"{speed:.1f}", f"{statistics.median(r['MB'] for r in rounds):.0f}",
                     f"{statistics.median(r['evaluate'] for r in rounds):.1f}",
                     *(f"{statistics.fmean(r[key] for r in rounds):.3f}"
                       for key in ("MAP@R", "Recall@1"))]
            print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
