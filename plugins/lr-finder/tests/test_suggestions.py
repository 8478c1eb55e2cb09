"""The four suggestions on curves whose answer is plain, or known from fastai."""

import math

import pytest

from callboard.errors import OptionError
from callboard_lr_finder import LRCurve, minimum, slide, steep, valley

POWERS_OF_TEN = [10.0**power for power in range(-6, 3)]


def a_curve(num_points=85):
    """Down along a logistic, then up along an exponential: a usual search."""
    lrs = [1e-7 * 1e8 ** (i / 100) for i in range(10, 10 + num_points)]
    losses = [
        1 / (1 + math.exp((i - 40) / 5)) + 0.02 * math.exp((i - 68) / 4)
        for i in range(num_points)
    ]
    return lrs, losses


@pytest.mark.parametrize(
    ("suggest", "lr", "point"),
    [
        (valley, 1.584893e-4, (1.584893e-4, 0.8807986)),
        (slide, 3.311311e-4, (3.311311e-4, 0.7685289)),
        (minimum, 8.317637e-3, (0.08317637, 0.01552016)),
        (steep, 8.317638e-4, (8.317638e-4, 0.5498482)),
    ],
)
def test_suggestions_are_those_of_fastai(suggest, lr, point):
    lrs, losses = a_curve()

    suggested = suggest(lrs, losses, 100)

    # The numbers are what fastai 2.8.12 gives for this curve.
    assert suggested[0] == pytest.approx(lr, rel=1e-5)
    assert suggested[1] == pytest.approx(point, rel=1e-5)


def test_minimum_is_a_tenth_of_the_rate_with_the_lowest_loss():
    losses = [5.0, 4.0, 3.0, 2.0, 1.0, 2.0, 3.0, 4.0, 5.0]

    lr, point = minimum(POWERS_OF_TEN, losses)

    assert lr == pytest.approx(1e-3)
    assert point == (1e-2, 1.0)


def test_steep_is_where_the_loss_falls_most():
    losses = [5.0, 5.0, 4.9, 2.0, 1.9, 1.9, 3.0, 4.0, 5.0]

    lr, point = steep(POWERS_OF_TEN, losses)

    assert (lr, point) == (1e-4, (1e-4, 4.9))


def test_valley_leaves_out_points_between():
    # Longest decrease: 9 8 7 6 5 4 at 0 1 3 4 6 7; it ends at 7 and is 6 long, so it
    # counts from 1: 1 + 6/3 + 6/3/2 = 4.
    losses = [9.0, 8.0, 8.5, 7.0, 6.0, 6.5, 5.0, 4.0, 9.0]

    lr, point = valley(POWERS_OF_TEN, losses)

    assert (lr, point) == (POWERS_OF_TEN[4], (POWERS_OF_TEN[4], 6.0))


@pytest.mark.parametrize("suggest", [valley, minimum])
def test_one_point_suggests_itself_or_a_tenth(suggest):
    lr, point = suggest([1e-3], [2.0], 6)

    assert lr in (1e-3, 1e-4)
    assert point == (1e-3, 2.0)


def test_valley_of_a_rising_curve_is_its_start():
    lr, _ = valley([1e-3, 1e-2, 1e-1], [1.0, 2.0, 3.0])

    assert lr == 1e-3


def test_slide_wants_more_points_than_its_interval():
    with pytest.raises(OptionError, match=r"slide looks at 16 points.*has 3"):
        slide([1e-3, 1e-2, 1e-1], [3.0, 2.0, 1.0])


def test_slide_takes_a_narrower_interval_and_a_factor():
    lrs, losses = [1e-4, 1e-3, 1e-2, 1e-1], [4.0, 1.0, 1.0, 1.0]

    lr, point = slide(lrs, losses, lr_diff=1, adjust_value=0.5)

    # Slopes: -3, -1.5, 0, 0; the interval at the right end has even slopes already.
    assert lr == 5e-3
    assert point == (5e-3, 1.0)


def test_slide_reads_the_loss_between_two_points():
    lrs, losses = [1e-4, 1e-3, 1e-2, 1e-1], [4.0, 2.0, 1.0, 0.0]

    _, point = slide(lrs, losses, lr_diff=1, thresh=9.0, adjust_value=10**-0.5)

    # From 1e-2 half-way down to 1e-3, on a logarithmic axis.
    assert point == pytest.approx((1e-2 * 10**-0.5, 1.5))


def test_steep_wants_two_points():
    with pytest.raises(OptionError, match="the curve has one"):
        steep([1e-3], [1.0])


def test_a_curve_is_trimmed_of_its_first_tenth_and_its_last_five():
    curve = LRCurve([float(i) for i in range(100)], [1.0] * 100, 100, 100)

    assert curve.trimmed().lrs == [float(i) for i in range(10, 95)]


def test_a_curve_is_trimmed_from_the_first_nan_on():
    losses = [1.0] * 50 + [math.nan]

    curve = LRCurve([float(i) for i in range(51)], losses, 100, 100)

    # Those after it would have been NaN too, the last five among them.
    assert curve.trimmed().lrs == [float(i) for i in range(10, 50)]
