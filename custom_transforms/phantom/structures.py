"""Where the structures of the anatomical brain are: ellipsoids and tubes in MNI millimetres.

Everything is given for one side, x > 0, and mirrored; both sides share a label. The ellipsoids were fitted to the
extent of each structure, and its volume says how much of the ellipsoid the structure fills (regions.py).

References:
    Fonov et al. 2011, NeuroImage 54:313, doi:10.1016/j.neuroimage.2010.07.033 (the space)
    He et al. 2017, Human Brain Mapping 38:5031, doi:10.1002/hbm.23711 (dentate nucleus)
"""

from __future__ import annotations

from dataclasses import dataclass

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Ellipsoid:
    """A structure as the innermost voxels of an ellipsoid.

    Attributes:
        centre_mm: Centre, MNI mm, on the side x >= 0.
        semi_axes_mm: Semi-axes, longest first, mm.
        long_axis: Direction of the longest semi-axis.
        middle_axis: Direction of the middle semi-axis.
        volume_mm3: Volume of one side, mm3.
        grey_matter_only: Curved structures, which share their ellipsoid with white matter.
        hollow: Fraction of the semi-axes left empty, and open towards the midline.
    """

    centre_mm: Point
    semi_axes_mm: Point
    long_axis: Point
    middle_axis: Point
    volume_mm3: float
    grey_matter_only: bool = False
    hollow: float = 0.0


@dataclass(frozen=True)
class Tube:
    """All points within a radius of a polyline, MNI mm."""

    points_mm: tuple[Point, ...]
    radius_mm: float


# Where two ellipsoids overlap, the first one in this table has the voxel.
NUCLEI = {
    "red_nucleus": Ellipsoid((5.3, -18.4, -8.2), (4.7, 3.7, 3.6), (-0.05, -0.74, -0.67), (0.66, -0.53, 0.54), 250),
    "subthalamic_nucleus": Ellipsoid((11.0, -11.0, -6.6), (4.5, 3.4, 1.7), (-0.78, 0.4, -0.48), (0.2, 0.89, 0.41), 95),
    "substantia_nigra": Ellipsoid(
        (9.8, -17.4, -12.9), (8.1, 5.8, 2.0), (-0.25, 0.97, 0.09), (-0.74, -0.13, -0.65), 290
    ),
    "pallidum_internal": Ellipsoid((18.4, -5.3, -4.0), (10.7, 5.0, 3.1), (-0.69, 0.72, -0.05), (0.08, 0.15, 0.99), 620),
    "pallidum_external": Ellipsoid(
        (20.9, -2.8, -0.6), (14.5, 7.4, 4.0), (-0.55, 0.84, -0.03), (-0.19, -0.09, 0.98), 1320
    ),
    "accumbens": Ellipsoid((9.0, 11.8, -7.3), (7.0, 6.6, 3.5), (0.02, 0.92, 0.39), (0.58, 0.31, -0.75), 550),
    "putamen": Ellipsoid((25.5, 2.6, 0.2), (23.1, 13.0, 7.0), (-0.31, 0.89, -0.32), (-0.01, -0.34, -0.94), 6600, True),
    "pulvinar": Ellipsoid((15.3, -28.9, 4.6), (12.0, 9.8, 5.8), (-0.72, 0.17, 0.67), (0.69, 0.16, 0.7), 2600),
    "thalamus": Ellipsoid((10.5, -14.3, 7.5), (15.4, 13.0, 9.8), (-0.57, 0.81, -0.13), (-0.13, -0.25, -0.96), 7400),
    "caudate": Ellipsoid((13.9, 9.6, 10.4), (29.1, 10.9, 7.1), (-0.08, 0.79, -0.6), (-0.36, -0.59, -0.72), 5600, True),
    "amygdala": Ellipsoid((23.4, -4.4, -20.7), (11.7, 9.1, 4.5), (-0.48, -0.34, 0.81), (-0.86, 0.36, -0.36), 1650),
    "hippocampus": Ellipsoid(
        (25.9, -22.5, -14.5), (28.7, 11.7, 5.2), (-0.05, 0.78, -0.62), (0.99, -0.03, -0.13), 4700, True
    ),
    "dentate_nucleus": Ellipsoid(
        (13.8, -55.8, -36.4), (8.0, 6.2, 4.2), (0.0, 0.906, 0.423), (0.0, -0.423, 0.906), 600, hollow=0.55
    ),
}

# Bundles of white matter
TRACTS = {
    "superior_longitudinal_fasciculus": Tube(
        ((38, 8, 24), (36, -10, 30), (37, -30, 30), (38, -45, 22), (42, -48, 8)), 4.5
    ),
    "cingulum": Tube(((7, 34, 4), (8, 30, 20), (9, 10, 32), (9, -15, 37), (9, -38, 32), (11, -48, 16)), 3.0),
    "posterior_thalamic_radiation": Tube(
        ((25, -27, -3), (36, -34, -2), (38, -45, 3), (34, -60, 5), (26, -74, 4), (14, -86, 3)), 4.5
    ),
    "corticospinal_tract": Tube(((20, -14, 2), (15, -17, -10), (11, -19, -18), (6, -22, -30), (4, -28, -45)), 4.0),
}

# Calcified structures in the cerebrospinal fluid
PINEAL_GLAND = Ellipsoid((0, -30, 2), (3.2, 2.2, 2.2), (0, 1, 0), (0, 0, 1), 65)
CHOROID_PLEXUS = Ellipsoid((22, -40, 10), (6, 4, 3.5), (0, 1, 0), (0, 0, 1), 350)
CHOROID_PLEXUS_TUBE = Tube(((12, -22, 16), (18, -34, 14), (24, -40, 6), (28, -34, -4)), 1.8)

# Veins that every brain has; the superficial sinuses lie outside the brain mask.
DEEP_VEINS = {
    "internal_cerebral_vein": Tube(((2, -3, 14), (2, -14, 15), (2, -24, 12), (1, -36, 10)), 1.2),
    "vein_of_galen": Tube(((0, -36, 10), (0, -42, 16), (0, -48, 17)), 2.0),
    "straight_sinus": Tube(((0, -48, 17), (0, -60, 8), (0, -76, -2), (0, -92, -12)), 2.2),
}

# Tracts that regions.py derives from the template and from nuclei nearby; later ones are painted over earlier ones.
DERIVED_TRACTS = (
    "corona_radiata",
    "external_capsule",
    "anterior_limb_internal_capsule",
    "posterior_limb_internal_capsule",
    "retrolenticular_internal_capsule",
    "corpus_callosum_genu",
    "corpus_callosum_body",
    "corpus_callosum_splenium",
)

TRACT_REGIONS = (*DERIVED_TRACTS, *TRACTS)
NUCLEUS_REGIONS = (*NUCLEI, "choroid_plexus", "pineal_gland")
_TISSUE_REGIONS = ("background", "cerebrospinal_fluid", "grey_matter", "white_matter")
_ADDED_REGIONS = ("vein", "haemorrhage", "calcification")

# Labels: name of a region to its index
REGIONS = {
    name: index for index, name in enumerate((*_TISSUE_REGIONS, *TRACT_REGIONS, *NUCLEUS_REGIONS, *_ADDED_REGIONS))
}
