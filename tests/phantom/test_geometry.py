import math

import torch

from custom_transforms.phantom.geometry import Grid, ellipsoid_radius, paint_tube, segment_distance_mm
from custom_transforms.phantom.structures import Ellipsoid, Tube


def test_ellipsoid_radius_is_one_at_the_ends_of_the_axes():
    tilted = Ellipsoid((1, 2, 3), (6, 4, 2), (0.6, 0.8, 0), (-0.8, 0.6, 0), 0)
    ends = torch.tensor([[1 + 3.6, 2 + 4.8, 3], [1 - 3.2, 2 + 2.4, 3], [1, 2, 5], [1, 2, 3 + 4]]).T
    torch.testing.assert_close(ellipsoid_radius(tilted, ends), torch.tensor([1.0, 1.0, 1.0, 2.0]))


def test_distance_to_a_segment():
    points = torch.tensor([[5.0, 3, 4], [-3, 0, 4], [13, 4, 0]]).T
    torch.testing.assert_close(segment_distance_mm((0, 0, 0), (10, 0, 0), points), torch.tensor([5.0, 5.0, 5.0]))


def test_tube_has_its_volume():
    grid = Grid((40, 30, 30), (-10.0, -15.0, -15.0), torch.device("cpu"))
    coverage = torch.zeros(grid.shape)
    paint_tube(coverage, Tube(((0, 0, 0), (10, 3, 1), (20, 0, 0)), 4.0), grid)
    length = 2 * math.sqrt(110)
    expected = math.pi * 4**2 * length + 4 / 3 * math.pi * 4**3
    assert abs(float(coverage.sum()) / expected - 1) < 0.05
    assert abs(float(coverage.sum()) / (math.pi * 4**2 * length) - 1) > 0.05  # the check can fail: no round ends
