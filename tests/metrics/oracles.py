"""The metrics as loops over queries, in float64, for comparison."""

import numpy as np


def rankings(features, labels, gallery=None, ties_last=True, own=None):
    """For every query: (relevant (M,) bool in order of distance, R of the mAPs, other images).

    Of images equally near, those of the query's class come last, or first. own: for every query the
    row of the gallery that is the query itself, or -1.
    """
    features = np.asarray(features, dtype=np.float64)
    labels = np.asarray(labels)
    others, classes = (features, labels) if gallery is None else map(np.asarray, gallery)
    if gallery is None:
        own = range(len(features))
    elif own is None:
        own = [-1] * len(features)
    found = []
    for query in range(len(features)):
        entries = []
        for other in range(len(others)):
            if other == own[query]:
                continue
            distance = round(float(((features[query] - others[other]) ** 2).sum()), 6)
            same = bool(labels[query] == classes[other])
            entries.append((distance, same if ties_last else not same, same))
        entries.sort()
        relevant = np.array([same for _, _, same in entries], dtype=bool)
        itself = own[query] >= 0 and classes[own[query]] == labels[query]
        found.append((relevant, relevant.sum() + itself, relevant.sum()))
    return found


def precision_sum(relevant, limit):
    """Sum of P@i over the first `limit` places that are relevant."""
    total = 0.0
    for i in range(1, min(int(limit), len(relevant)) + 1):
        if relevant[i - 1]:
            total += relevant[:i].sum() / i
    return total


def retrieval(name, found):
    """The metric called `name` of what `rankings` found."""
    family, _, k = name.partition("@")
    scores = []
    for relevant, size, others in found:
        if family.endswith("recall"):
            scores.append(float(relevant[:int(k)].any()))
        elif family.endswith("mAP_r"):
            if others:
                scores.append(precision_sum(relevant, others) / others)
        elif family.endswith("r_precision"):
            if others:
                scores.append(relevant[:others].sum() / others)
        else:
            limit = {"mAP_1000": 1000, "mAP_lim": 1023, "mAP_c": size}.get(
                family.removeprefix("c_"), len(relevant))
            scores.append(precision_sum(relevant, limit) / max(size, 1))
    return float(np.mean(scores)) if scores else 0.0


RETRIEVAL = ["e_recall@1", "e_recall@3", "e_recall@50", "mAP", "mAP_c", "mAP_1000", "mAP_lim",
             "mAP_r", "r_precision"]
