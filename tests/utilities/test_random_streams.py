import torch

from utilities.random_streams import seeds, stream

SEEDS = [1535930435702422785, 8873073696119052510, 3894832414965109837]     # of (0, 1, 2)


def test_seeds_are_the_same_on_every_machine():
    assert seeds(0, 1, 2, n=3) == SEEDS


def test_seeds_depend_on_every_number_and_not_on_how_many_are_asked_for():
    assert seeds(1, 2, 3, n=5) == seeds(1, 2, 3, n=9)[:5]
    given = [(1, 2, 3), (0, 2, 3), (1, 0, 3), (1, 2, 0), (2**40, 2, 3)]
    drawn = [seed for numbers in given for seed in seeds(*numbers, n=50)]
    assert len(set(drawn)) == len(drawn) and min(drawn) >= 0 and max(drawn) < 2**63


def test_a_stream_depends_on_its_numbers_alone():
    def draw(*numbers):
        with stream(*numbers):
            return torch.rand(3).tolist()

    first = draw(1, 2)
    torch.rand(5)
    assert draw(1, 2) == first
    assert draw(1, 3) != first and draw(2, 2) != first


def test_a_stream_leaves_the_generator_as_it_was():
    undisturbed = torch.Generator().manual_seed(0)
    with stream(7):
        torch.rand(9)
    assert torch.rand(3).tolist() == torch.rand(3, generator=undisturbed).tolist()
