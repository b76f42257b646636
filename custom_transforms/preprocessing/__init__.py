"""From the echoes of a scanner to the maps that source separation takes, each step a MONAI transform.

stages         named steps, replaced by the user's own maps, cached on disk
"""
