"""`chisep run`: from raw data to maps and a report, for one scan or for a cohort.

command        the options of the command
scans          which scans there are, and what of them is done
case           one scan from echoes to report
derivatives    names, sidecars and folders of what is written, a BIDS derivative
progress       which stage runs, and how long it still takes
workers        many scans, on several processes or GPUs
"""
