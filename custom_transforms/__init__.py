"""chisep: susceptibility source separation as a MONAI bundle.

The map of the package:

    keys.py        names of dictionary keys and image channels
    physics/       units, dipole convolution, source model, closed and analytic forms (imports torch only)
    phantom/       random shapes, warped anatomy, anatomical brain, acquisition, the steps of a simulated
                   measurement with its imperfections, and the datasets made of them
    relaxometry.py R2*, R2 and field fits of multi-echo data
    raw/           raw data: BIDS datasets, DICOM folders, files of any format
    preprocessing/ from echoes to maps: phase, mask, unwrapping, fields, background, relaxation; stages with a cache
    pipeline/      `chisep run`: a scan from raw data to report, cohorts
    separation.py  a variant on the files of a subject, checked and recorded
    transforms/    MONAI transforms: mask, field and R2' units, geometry, axial frame, zero reference,
                   simulation, augmentation
    networks/      learned methods: QSMnet, chi-sepnet, both unrolled networks, R2' from R2*, standard deviations
    classical/     conventional methods, and COSMOS, the maker of labels
    variants.py    every method of the bundle by its name, with its weights
    inferers.py    GeometryInferer, AxialInferer: the geometry from the affine to the network
    losses/        training losses: of both sources, and the published terms of QSMnet and chi-sepnet
    statistics.py  means and SDs of a training set, for the networks that z-score
    metrics/       error measures, as functions and as Ignite metrics
    handlers.py    Ignite handlers
    data.py        data lists
    weights.py     weights files
    precision.py   where bfloat16 is fast
    overrides.py   refuses misspelt options of the configs
    run_record.py  what every training and evaluation leaves behind: config, data statement, commit
    processes.py   several processes that share cases
    file_guard.py  image files compared with their headers before they are read
    cohort.py      several head orientations, their COSMOS labels, the split of the subjects
    registration.py, alignment.py
                   rigid registration of head orientations and of contrasts, and a common grid
    elastix.py, atlas.py
                   deformable registration, and with it the regions of a brain
    deploy/        exported files, packed bundles, the checks of the Model Zoo
    benchmark/     every variant on a data set, files to files, with time and memory
    reproduce/     the published results, checked
    reconstruct.py, simulate.py, simulate_raw.py, labels.py, evaluate.py, demo.py, options.py, checks.py,
    plausibility.py, report/, cli.py
                   the command `chisep`

Every method, learned or conventional, is a module with the same call:

    method(image, voxel_size_mm, b0_direction, relaxivity_weights) -> chi

with image (B, 3, X, Y, Z): local field, R2'/Dr or R2*/Dr, mask, and for some methods a fourth channel, the magnitude;
chi (B, 2, X, Y, Z): chi_para, chi_dia >= 0; in ppm.
"""

import logging as _logging
import warnings as _warnings

# Where pydicom is installed, every reader of MONAI says that it does without a GPU's DICOM decoder
_warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader", category=UserWarning)
_logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(_logging.ERROR)
