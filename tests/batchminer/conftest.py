import pytest
import torch


@pytest.fixture
def check_draws():
    """check_draws(miner, embeddings, labels, positives=(B, B), negatives=(B, B), n=1000): among
    valid triplets each row is an anchor's positive, negative as often as these probabilities say,
    within five standard deviations, and never where they are 0.
    """

    def check(miner, embeddings, labels, *, n=1000, **expected):
        counts = {member: torch.zeros(len(labels), len(labels)) for member in expected}
        for _ in range(n):
            triplets = miner(embeddings, labels)
            for member, table in counts.items():
                rows = torch.stack([triplets.anchors, getattr(triplets, member)])
                table.index_put_(tuple(rows[:, triplets.valid]), torch.ones(()), accumulate=True)
        for member, probability in expected.items():
            deviation = (counts[member] / n - probability).abs()
            allowed = 5 * (probability * (1 - probability) / n).clamp(min=0).sqrt() + 3 / n
            wrong = deviation > torch.where(probability > 0, allowed, 0)
            assert not wrong.any(), (member, wrong.nonzero().tolist(), counts[member] / n)

    return check


@pytest.fixture
def uniform_members():
    """uniform_members(labels) -> (B, B): the probability of each row as an anchor's positive, all
    others of its class alike."""

    def build(labels):
        members = (labels[:, None] == labels).float().fill_diagonal_(0)
        return members / members.sum(1, keepdim=True).clamp(min=1)

    return build


@pytest.fixture
def batch():
    """Unit embeddings (12, 6) around their class's direction, labels of unequal counts."""
    labels = torch.tensor([2, 0, 0, 7, 7, 7, 3, 3, 3, 3, 5, 5])
    directions = torch.randn(8, 6)
    embeddings = directions[labels] + torch.randn(12, 6)
    return torch.nn.functional.normalize(embeddings), labels


@pytest.fixture
def distance_loop():
    """distance_loop(embeddings) -> nested list of distances, by definition."""

    def loop(embeddings):
        return [[float(torch.dist(x.double(), y.double())) for y in embeddings]
                for x in embeddings]

    return loop


@pytest.fixture
def probability_loop(distance_loop):
    """probability_loop(embeddings, candidates, lower_cutoff=0.5) -> (B, B) with rows
    ~ 1/q(max(d, lower_cutoff)) over candidates(i), a list of rows."""

    def loop(embeddings, candidates, lower_cutoff=0.5):
        dim, d = embeddings.shape[1], distance_loop(embeddings)
        table = torch.zeros(len(d), len(d))
        for i in range(len(d)):
            weights = {}
            for j in candidates(i):
                x = max(d[i][j], lower_cutoff)
                weights[j] = 1 / (x ** (dim - 2) * (1 - x * x / 4) ** ((dim - 3) / 2))
            for j, weight in weights.items():
                table[i, j] = weight / sum(weights.values())
        return table

    return loop
