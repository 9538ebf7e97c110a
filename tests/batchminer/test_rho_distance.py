import torch

import batchminer
from batchminer import rho_distance


def miner(cp):
    return rho_distance.Miner(lower_cutoff=0.5, cp=cp)


def test_without_switching_it_is_distance(batch, check_draws, probability_loop, uniform_members):
    embeddings, labels = batch
    negatives = probability_loop(embeddings,
                                 lambda i: [j for j in range(12) if labels[j] != labels[i]])
    negatives[0] = 0  # no positive: not valid
    check_draws(miner(0.0), embeddings, labels, positives=uniform_members(labels),
                negatives=negatives)


def test_a_switched_triplet_is_anchor_anchor_member(batch, check_draws, uniform_members):
    embeddings, labels = batch
    itself = torch.eye(12).index_fill(0, torch.tensor(0), 0)  # row 0 is alone in its class
    check_draws(miner(1.0), embeddings, labels, positives=itself,
                negatives=uniform_members(labels))


def test_triplets_switch_with_probability_cp(batch):
    embeddings, labels = batch
    switched = []
    for _ in range(500):
        a, p, n, valid = miner(0.3)(embeddings, labels)
        switched.append((a == p)[valid])
        assert ((labels[n] == labels[a]) == (a == p))[valid].all()
    assert abs(float(torch.stack(switched).float().mean()) - 0.3) < 0.03


def test_switched_triplets_need_no_other_class(batch):
    embeddings, _ = batch
    a, p, n, valid = miner(0.5)(embeddings, torch.zeros(12, dtype=torch.int64))
    assert valid.equal(a == p) and (a != n)[valid].all() and valid.any()


def test_each_name_reads_its_own_flags(make_opt):
    opt = make_opt("--miner_rho_distance_lower_cutoff", 0.6, "--miner_rho_distance_cp", 0.1,
                   "--miner_anticollapse_cdistance_lower_cutoff", 0.7,
                   "--miner_anticollapse_cdistance_cp", 0.4)
    for name, lower, cp in (("rho_distance", 0.6, 0.1), ("anticollapse_cdistance", 0.7, 0.4)):
        built = batchminer.select(name, opt)
        assert (built.name, built.lower_cutoff, built.cp) == (name, lower, cp)
