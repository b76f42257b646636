"""From the bundle to where models are served: exported files, packed bundles, and the checks of the Model Zoo.

torchscript.py    one scripted file with metadata and inference config inside
onnx.py           one ONNX file for one grid
pack.py           a self-contained bundle of one variant; card.py, its model card
zoo.py            what the Model Zoo asks of a bundle, checked offline; zoo_network.py, of its network
machine_paths.py  folders of a machine in files that leave it
"""
