"""Machine code written in Python computes what NumPy and torch compute."""

import numpy as np
import pytest
import torch

from echo_model.lanes import LANES, Kernel, Variable, constant, loop, totals


def computed(build, *inputs, out=LANES, numbers=()):
    """What a kernel writes, given float32 or bfloat16 inputs."""
    given = [torch.as_tensor(each) for each in inputs]
    found = torch.zeros(out)
    halves = [each.dtype == torch.bfloat16 for each in given]
    kernel = Kernel(build, [*halves, False], len(numbers))
    kernel(*(each.data_ptr() for each in [*given, found]), *numbers)
    return found.numpy()


def noise(seed=0, size=LANES):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda x, y: x + y, lambda x, y: x + y),
        (lambda x, y: x - y, lambda x, y: x - y),
        (lambda x, y: x * y, lambda x, y: x * y),
        (lambda x, y: x.larger(y), np.maximum),
        (lambda x, y: x.times_plus(2.0, y), lambda x, y: 2 * x + y),
        (lambda x, _: x * 0.5 + 3.0, lambda x, _: x * np.float32(0.5) + 3),
        (lambda x, _: x.floor(), lambda x, _: np.floor(x)),
        (lambda x, _: (x * x).root(), lambda x, _: np.sqrt(x * x)),
        (lambda x, _: x.inverse(), lambda x, _: 1 / x),
        (lambda x, _: (x * 40.0).floor().power_of_two(), lambda x, _: np.exp2(np.floor(x * 40))),
    ],
)
def test_each_operation_is_that_of_numpy(ours, theirs):
    def build(a, b, out, zero):
        out.store(zero, ours(a.load(zero), b.load(zero)))

    x, y = noise(1), noise(2)
    assert np.allclose(computed(build, x, y, numbers=[0]), theirs(x, y), rtol=1e-7, atol=1e-7)


def test_totals_stand_in_the_order_of_their_summands():
    def build(a, out, zero):
        out.store(zero, totals(*(a.load(zero + 16 * i) for i in range(4))))

    x = np.arange(64, dtype=np.float32).reshape(4, 16)
    assert computed(build, x.ravel(), numbers=[0])[:4].tolist() == x.sum(1).tolist()


def test_pairs_come_apart():
    def build(a, out, zero):
        first, second = a.pairs(zero)
        out.store(zero, first * 100.0 + second)

    x = np.stack([np.arange(16), np.arange(16) + 20], 1).astype(np.float32)
    assert computed(build, x, numbers=[0]).tolist() == (x @ [100, 1]).tolist()


def test_power_and_rest_multiply_to_the_number():
    def build(a, out, zero):
        power, rest = a.load(zero).power_and_rest()
        out.store(zero, power)
        out.store(zero + LANES, rest)

    x = np.geomspace(1e-37, 3e38, 16).astype(np.float32)
    power, rest = computed(build, x, out=2 * LANES, numbers=[0]).reshape(2, LANES)
    assert np.array_equal(np.ldexp(rest, power.astype(int)), x)
    assert (rest >= 0.7071067).all()
    assert (rest < 1.4142136).all()


def test_a_total_is_in_all_lanes():
    def build(a, out, zero):
        out.store(zero, a.load(zero).total())

    assert computed(build, np.arange(16, dtype=np.float32), numbers=[0]).tolist() == [120.0] * 16


def test_a_whole_number_spreads_over_lanes():
    def build(a, out, number):
        out.store(number.like(0), number.lanes() + a.spread(number))

    x = np.arange(16, dtype=np.float32)
    assert computed(build, x, numbers=[7]).tolist() == [14.0] * 16


def test_bfloat16_is_read_exactly_and_written_to_the_nearest_even():
    x = torch.cat([torch.randn(4093), torch.tensor([1.00390625, 1.01171875, -0.0])])
    out = torch.zeros(4096, dtype=torch.bfloat16)

    def build(a, b, count):
        with loop(count, LANES) as i:
            b.store(i, a.load(i))

    Kernel(build, [False, True], 1)(x.data_ptr(), out.data_ptr(), 4096)
    assert torch.equal(out, x.to(torch.bfloat16))
    back = torch.zeros(4096)
    Kernel(build, [True, False], 1)(out.data_ptr(), back.data_ptr(), 4096)
    assert torch.equal(back, out.to(torch.float32))


@pytest.mark.parametrize(
    ("count", "step", "turns"), [(1, 1, 1), (5, 1, 5), (17, 16, 2), (32, 16, 2)]
)
def test_a_loop_takes_every_step_below_its_count(count, step, turns):
    def build(out, number):
        seen = Variable(constant(out.builder, 0.0))
        with loop(number, step):
            seen.set(seen.get() + 1.0)
        out.store(number.like(0), seen.get())

    assert computed(build, numbers=[count]).tolist() == [float(turns)] * 16


def test_the_smaller_whole_number_counts():
    def build(out, number):
        out.store(number.like(0), number.smaller(3).lanes())

    assert [computed(build, numbers=[n])[0] for n in (-2, 3, 9)] == [-2.0, 3.0, 3.0]
