"""Names of the dictionary keys and image channels, in one place.

Every map is a tensor with a leading channel axis, (1, X, Y, Z), or (B, 1, X, Y, Z) once batched.
"""

from torch import Tensor

# Measured maps
LOCAL_FIELD = "local_field"  # ppm of B0
R2PRIME = "r2prime"  # 1/s, or ppm once divided by the relaxivity
R2STAR = "r2star"  # 1/s
R2 = "r2"  # 1/s
RATE = "rate"  # R2'/Dr or R2*/Dr in ppm, whichever the image holds
MASK = "mask"  # 1 in the brain, 0 outside

# Raw data and what is made of it on the way to the measured maps
ECHO_TIMES_S = "echo_times_s"  # of the gradient echoes, a tuple
B0_TESLA = "b0_tesla"
PHASE_UNIT = "phase_unit"  # "rad" where it is known
VENDOR = "vendor"  # GE, Siemens, Philips, Canon, UIH or None
SPIN_ECHO = "spin_echo"  # magnitude, one channel a spin echo
SPIN_ECHO_TIMES_S = "spin_echo_times_s"
UNWRAPPED_PHASE = "unwrapped_phase"  # rad, one channel an echo
TOTAL_FIELD = "total_field"  # ppm of B0, with that of the background
FIELD_QUALITY = "field_quality"  # 0 to 1: how well the echoes agree on the field
NOTES = "notes"  # what the user should know: a list of sentences

# Susceptibility, ppm; the two sources are magnitudes (>= 0), the total is their difference
CHI_PARA = "chi_para"
CHI_DIA = "chi_dia"
CHI_TOTAL = "chi_total"

# Simulation
PROTON_DENSITY = "m0"  # signal at echo time 0, white matter = 1
RELAXIVITY_DIA_FACTOR = "relaxivity_dia_factor"  # of Dr_dia in every voxel, where fibres change it; 1 elsewhere
REGIONS = "regions"  # integer labels
MAGNITUDE = "magnitude"  # one channel an echo
PHASE = "phase"  # rad, one channel an echo

# Network input and output
IMAGE = "image"  # (B, 3 or 4, X, Y, Z): local field, R2'/Dr (or R2*/Dr), mask; see split_image and magnitude_of
LABEL = "label"  # (B, 2, X, Y, Z): chi_para, chi_dia
PRED = "pred"  # (B, 2, X, Y, Z): chi_para, chi_dia

# Geometry, the arguments of every method
VOXEL_SIZE_MM = "voxel_size_mm"  # (B, 3)
B0_DIRECTION = "b0_direction"  # (B, 3), unit vectors in voxel axes
RELAXIVITY_WEIGHTS = "relaxivity_weights"  # (B, 2): [Dr_para, Dr_dia] / Dr, with R2' / Dr in the image
GEOMETRY = (VOXEL_SIZE_MM, B0_DIRECTION, RELAXIVITY_WEIGHTS)


def split_image(image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the network's input (B, 3, X, Y, Z) into local field, R2'/Dr and mask, each (B, 1, X, Y, Z)."""
    return image[:, 0:1], image[:, 1:2], image[:, 2:3]


def magnitude_of(image: Tensor) -> Tensor | None:
    """Give the fourth channel of an image (B, 4, X, Y, Z), the magnitude, (B, 1, X, Y, Z); None without one."""
    return image[:, 3:4] if image.shape[1] > 3 else None
