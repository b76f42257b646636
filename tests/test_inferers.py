"""The inferer finds the geometry, and the storage order of a head cannot change its maps."""

from itertools import permutations, product

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.engines import SupervisedEvaluator

from custom_transforms.bundle_path import bundle_path
from custom_transforms.inferers import AxialInferer, GeometryInferer, canonical_order
from custom_transforms.physics import SourceModel
from custom_transforms.transforms import b0_direction_from_affine, voxel_size_from_affine

ORDERS = list(product(permutations(range(3)), product((1, -1), repeat=3)))
VOXEL_SIZE_MM = torch.tensor([0.8, 1.0, 1.7])


class OrientedNetwork:
    """A method that depends on the order of the axes in every way: a random kernel, and the geometry by axis."""

    def __init__(self) -> None:
        self.kernel = torch.randn(2, 3, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        self.calls: list[tuple] = []

    def __call__(
        self,
        image: torch.Tensor,
        voxel_size_mm: torch.Tensor | None,
        b0_direction: torch.Tensor | None,
        relaxivity_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        self.calls.append((voxel_size_mm, b0_direction, relaxivity_weights))
        chi = torch.nn.functional.conv3d(image, self.kernel, padding=1)
        for vector in (voxel_size_mm, b0_direction):
            if vector is not None:
                chi = chi + (vector * torch.tensor([1.0, 20.0, 300.0])).sum(1)[:, None, None, None, None]
        return chi


@pytest.fixture
def head() -> MetaTensor:
    """(3, 5, 6, 7) on an oblique anisotropic grid, close to RAS+."""
    q, r = torch.linalg.qr(torch.tensor([[1.0, 0.2, 0.1], [-0.3, 1.0, 0.3], [0.2, -0.4, 1.0]]).double())
    affine = torch.eye(4).double()
    affine[:3, :3] = q * r.diag().sign() * VOXEL_SIZE_MM.double()
    affine[:3, 3] = torch.tensor([-30.0, 12.0, 5.0])
    return MetaTensor(torch.randn(3, 5, 6, 7, generator=torch.Generator().manual_seed(1)), affine=affine)


def stored(image: MetaTensor, axes: tuple[int, ...], signs: tuple[int, ...]) -> MetaTensor:
    """Store an image (C, X, Y, Z) with its voxel axes in another order and direction; the head stays where it is."""
    shape = torch.tensor(image.shape[1:])
    to_old = torch.zeros(4, 4).double()
    to_old[3, 3] = 1
    for new, (old, sign) in enumerate(zip(axes, signs, strict=True)):
        to_old[old, new] = sign
        to_old[old, 3] = 0 if sign > 0 else shape[old] - 1
    flips = [new + 1 for new, sign in enumerate(signs) if sign < 0]
    values = image.as_tensor().permute(0, *(axis + 1 for axis in axes)).flip(flips)
    return MetaTensor(values, affine=image.affine @ to_old)


def restored(image: torch.Tensor, axes: tuple[int, ...], signs: tuple[int, ...]) -> torch.Tensor:
    """Undo :func:`stored` on plain values."""
    flips = [new + 1 for new, sign in enumerate(signs) if sign < 0]
    return torch.as_tensor(image).flip(flips).permute(0, *(axes.index(axis) + 1 for axis in range(3)))


def test_stored_keeps_the_head_in_the_world(head: MetaTensor) -> None:
    axes, signs = (2, 0, 1), (-1, 1, -1)
    other = stored(head, axes, signs)
    voxel = torch.tensor([1, 2, 3])
    world = other.affine @ torch.tensor([*voxel.tolist(), 1]).double()
    old = (torch.linalg.inv(head.affine) @ world).round().long()[:3]
    assert torch.equal(other[:, 1, 2, 3].as_tensor(), head[:, old[0], old[1], old[2]].as_tensor())


def maps_of_all_orders(head: MetaTensor, inferer: GeometryInferer) -> list[torch.Tensor]:
    maps = []
    for axes, signs in ORDERS:
        image = stored(head, axes, signs)
        chi = inferer(list_data_collate([image]), OrientedNetwork())
        assert torch.equal(chi.affine[0], image.affine)
        maps.append(restored(chi[0], axes, signs))
    return maps


def test_all_48_orders_give_the_same_maps(head: MetaTensor) -> None:
    maps = maps_of_all_orders(head, GeometryInferer())
    assert len(maps) == 48
    assert all(torch.allclose(chi, maps[0], rtol=1e-5, atol=1e-4) for chi in maps)


def test_without_canonical_order_they_differ(head: MetaTensor) -> None:
    maps = maps_of_all_orders(head, GeometryInferer(canonical=False))
    same = [torch.allclose(chi, maps[0], rtol=1e-5, atol=1e-4) for chi in maps]
    assert sum(same) == 1


def test_explicit_geometry_follows_the_storage_order(head: MetaTensor) -> None:
    expected = GeometryInferer()(head[None], OrientedNetwork()).as_tensor()
    for axes, signs in ORDERS[::7]:
        image = stored(head, axes, signs)
        b0 = b0_direction_from_affine(image.affine)
        by_constructor = GeometryInferer(b0_direction=(2 * b0).tolist())
        by_call = by_constructor(image[None], OrientedNetwork(), VOXEL_SIZE_MM[list(axes)][None], b0[None])
        for chi in (by_call, by_constructor(image[None], OrientedNetwork())):
            assert torch.allclose(restored(chi[0], axes, signs), expected[0], rtol=1e-5, atol=1e-4)


def test_mixed_batch_equals_single_runs(head: MetaTensor) -> None:
    second = MetaTensor(head.as_tensor().flip(0), affine=head.affine.clone())
    images = [head, stored(second, (0, 1, 2), (-1, 1, -1))]
    network = OrientedNetwork()
    inferer = GeometryInferer(relaxivity_weights=[1.2, 0.8])
    chi = inferer(list_data_collate(images), network)
    assert len(network.calls) == 2
    assert all(torch.allclose(weights, torch.tensor([[1.2, 0.8]])) for *_, weights in network.calls)
    for result, image in zip(decollate_batch(chi), images, strict=True):
        assert torch.allclose(result, inferer(list_data_collate([image]), OrientedNetwork())[0])
        assert torch.equal(result.affine, image.affine)


def test_equal_orders_run_together(head: MetaTensor) -> None:
    network = OrientedNetwork()
    GeometryInferer()(list_data_collate([head, head]), network)
    (voxel_size_mm, b0_direction, weights), *others = network.calls
    assert not others
    assert torch.allclose(voxel_size_mm, VOXEL_SIZE_MM.expand(2, 3))
    assert torch.allclose(b0_direction, b0_direction_from_affine(head.affine).expand(2, 3))
    assert weights is None


def test_plain_tensor_warns_once() -> None:
    network, inferer, image = OrientedNetwork(), GeometryInferer(), torch.randn(1, 3, 4, 4, 4)
    with pytest.warns(UserWarning, match=r"no voxel size \(1 mm is assumed\) and B0 direction"):
        chi = inferer(image, network)
    assert not isinstance(chi, MetaTensor)
    inferer(image, network)  # a second warning would be an error here
    assert network.calls == [(None, None, None)] * 2


def test_half_precision_comes_back_as_float32(head: MetaTensor) -> None:
    chi = GeometryInferer()(head[None].half(), lambda image, *geometry: image[:, :2].half())
    assert chi.dtype == torch.float32


def test_gradients_pass(head: MetaTensor) -> None:
    network = OrientedNetwork()
    network.kernel.requires_grad_()
    GeometryInferer()(stored(head, (1, 0, 2), (1, -1, 1))[None], network).sum().backward()
    assert network.kernel.grad is not None


def test_canonical_order_of_known_storage() -> None:
    lps = torch.diag(torch.tensor([-1.0, -2.0, 3.0, 1.0])).double()
    assert canonical_order(lps) == ([0, 1, 2], [-1, -1, 1])
    assert canonical_order(lps[:, [2, 0, 1, 3]]) == ([1, 2, 0], [-1, -1, 1])


def test_in_an_evaluator(head: MetaTensor) -> None:
    loader = [{"image": list_data_collate([stored(head, (2, 1, 0), (1, 1, -1))])}]
    network = torch.nn.Module()
    network.forward = OrientedNetwork()
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"), val_data_loader=loader, network=network, inferer=GeometryInferer()
    )
    evaluator.run()
    pred = evaluator.state.output[0]["pred"]
    assert pred.shape == (2, 7, 6, 5)
    assert torch.allclose(voxel_size_from_affine(pred.affine), VOXEL_SIZE_MM.flip(0))


class AxialNetwork(OrientedNetwork):
    """A direct network: it takes its own voxel size and B0 along +z alone, and smooths."""

    def __init__(self, voxel_size_mm: float = 1.0) -> None:
        super().__init__()
        self.kernel = self.kernel.abs() / self.kernel.abs().sum((1, 2, 3, 4), keepdim=True)
        self.voxel_size_mm = voxel_size_mm

    def __call__(
        self,
        image: torch.Tensor,
        voxel_size_mm: torch.Tensor | None,
        b0_direction: torch.Tensor | None,
        relaxivity_weights: torch.Tensor | None,
    ) -> torch.Tensor:
        assert torch.equal(voxel_size_mm, torch.full((len(image), 3), self.voxel_size_mm))
        assert torch.equal(b0_direction, torch.tensor([[0.0, 0.0, 1.0]]).expand(len(image), 3))
        self.calls.append((image.shape, relaxivity_weights))
        return torch.nn.functional.conv3d(image, self.kernel, padding=1)


@pytest.fixture
def masked_head(head: MetaTensor) -> MetaTensor:
    """The head with a smooth field and R2', and a mask that leaves out its corners."""
    grid = torch.stack(torch.meshgrid(*(torch.linspace(-1, 1, n) for n in head.shape[1:]), indexing="ij"))
    mask = (grid.norm(dim=0) < 1.3).float()
    values = torch.stack([torch.sin(grid[0] + 2 * grid[1]), 1 + grid[2], torch.ones_like(mask)]) * mask
    return MetaTensor(values, affine=head.affine)


def test_a_direct_network_refuses_the_head_itself(masked_head: MetaTensor) -> None:
    with pytest.raises(AssertionError):
        GeometryInferer()(masked_head[None], AxialNetwork())


@pytest.mark.parametrize("voxel_size_mm", [1.0, 0.75])
def test_axial_48_orders_give_the_same_maps(masked_head: MetaTensor, voxel_size_mm: float) -> None:
    inferer, maps = AxialInferer(voxel_size_mm=voxel_size_mm), []
    for axes, signs in ORDERS:
        image = stored(masked_head, axes, signs)
        chi = inferer(list_data_collate([image]), AxialNetwork(voxel_size_mm))
        assert chi.shape == (1, 2, *image.shape[1:]) and chi.dtype == torch.float32
        assert torch.equal(chi.affine[0], image.affine)
        maps.append(restored(chi[0], axes, signs))
    assert float(maps[0].norm()) > 1
    assert all(torch.allclose(chi, maps[0], rtol=1e-4, atol=1e-5) for chi in maps)
    assert not torch.allclose(maps[0].flip(1), maps[0], atol=1e-2)


def test_axial_result_is_masked_and_keeps_the_scale(masked_head: MetaTensor) -> None:
    def constant(image: torch.Tensor, *geometry: torch.Tensor | None) -> torch.Tensor:
        return torch.full_like(image, 0.3)[:, [0]].repeat(1, 5, 1, 1, 1)  # any number of channels

    chi = AxialInferer()(masked_head[None], constant).as_tensor()
    expected = 0.3 * masked_head[None, 2:3].as_tensor().expand(1, 5, -1, -1, -1)
    torch.testing.assert_close(chi, expected, atol=1e-4, rtol=0)


def test_axial_heads_are_not_interpolated(masked_head: MetaTensor) -> None:
    image = MetaTensor(masked_head.as_tensor(), affine=torch.eye(4))
    network = AxialNetwork()
    expected = network(image[None].as_tensor(), torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]), None)
    chi = AxialInferer()(image[None], network)
    assert torch.equal(chi.as_tensor(), expected * image[None, 2:3].as_tensor())
    rotated = AxialInferer()(masked_head[None], network)
    assert not torch.allclose(rotated.as_tensor(), chi.as_tensor(), atol=1e-3)


def test_axial_batches_of_different_geometries(masked_head: MetaTensor) -> None:
    """Also plain tensors with given geometry, and relaxivity weights."""
    voxel = torch.tensor([[1.0, 1.0, 1.0], [0.8, 1.0, 1.7]])
    b0 = torch.nn.functional.normalize(torch.tensor([[0.0, 0.0, 1.0], [0.3, -0.5, 0.8]]), dim=1)
    images = masked_head[None].as_tensor().repeat(2, 1, 1, 1, 1)
    weights = torch.tensor([[1.0, 1.0], [1.2, 0.8]])
    network = AxialNetwork()
    chi = AxialInferer()(images, network, voxel, b0, weights)
    assert not isinstance(chi, MetaTensor)
    assert torch.equal(torch.cat([given for _, given in network.calls]), weights)
    assert network.calls[0][0][2:] == images.shape[2:] != network.calls[1][0][2:]
    for i in range(2):
        alone = AxialInferer()(images[i : i + 1], AxialNetwork(), voxel[i : i + 1], b0[i : i + 1])
        assert torch.equal(alone, chi[i : i + 1])
    assert not torch.allclose(chi[0], chi[1], atol=1e-3)


def test_axial_voxel_size_must_be_positive() -> None:
    with pytest.raises(ValueError, match="voxel_size_mm must be positive"):
        AxialInferer(voxel_size_mm=-1.0)


@pytest.mark.parametrize("canonical", [True, False])
def test_an_image_is_cropped_to_its_mask(head: MetaTensor, canonical: bool) -> None:
    """The network sees the brain and the margin alone, at its place, and zeros come back elsewhere."""
    image = torch.zeros(1, 3, 20, 18, 16)
    image[:, :2, 6:11, 5:9, 4:10] = torch.rand(1, 2, 5, 4, 6, generator=torch.Generator().manual_seed(0))
    image[:, 2, 6:11, 5:9, 4:10] = 1
    flipped = torch.diag(torch.tensor([-1.0, 1.0, 1.0, 1.0], dtype=torch.float64))
    seen: list[torch.Size] = []

    def network(image: torch.Tensor, *geometry: torch.Tensor | None) -> torch.Tensor:
        seen.append(image.shape)
        return image[:, :2] * 2

    inferer = GeometryInferer(margin_voxels=2, canonical=canonical)
    chi = inferer(MetaTensor(image, affine=head.affine @ flipped), network)
    assert seen == [(1, 3, 9, 8, 10)]
    assert torch.equal(chi.as_tensor(), 2 * image[:, :2])
    seen.clear()
    GeometryInferer(margin_voxels=5)(MetaTensor(image, affine=head.affine), network)
    GeometryInferer()(MetaTensor(0 * image, affine=head.affine), network)  # an empty mask
    GeometryInferer()(image, network, torch.ones(1, 3), torch.tensor([[0.0, 0.0, 1.0]]))  # no affine
    assert seen == [(1, 3, 15, 14, 15), (1, 3, 20, 18, 16), (1, 3, 20, 18, 16)]


def test_a_crop_changes_the_maps_little(head: MetaTensor) -> None:
    """Of the bundle's network with random weights; the dipole convolution pads itself."""
    config = ConfigParser.load_config_file(bundle_path() / "configs" / "inference.json")
    torch.manual_seed(0)
    network = ConfigParser(config | {"channels": [4, 4, 8], "weights": False, "amp": False}).get_parsed_content(
        "network_def"
    )
    shape = (30, 28, 32)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    ball = (torch.stack(axes).norm(dim=0) < 0.6).float()
    chi = 0.1 * torch.rand(1, 2, *shape, generator=torch.Generator().manual_seed(0)) * ball
    measured = SourceModel(padding=1.0)(
        chi, voxel_size_from_affine(head.affine)[None], b0_direction_from_affine(head.affine)[None]
    )
    image = MetaTensor(torch.cat([measured * ball, ball.expand(1, 1, *shape)], dim=1), affine=head.affine)
    with torch.no_grad():
        whole, cropped = (GeometryInferer(margin_voxels=m)(image, network.eval()) for m in (99, 4))
    assert (whole - cropped).norm() < 0.02 * whole.norm()
    assert not torch.equal(whole, cropped)
