"""`chisep run`: from raw data to maps and a report, for one scan or for a cohort.

command        the options of the command
run_options    how scans are processed
preprocess     the stages of preprocess.json on one scan
case           one scan from echoes to report
pages          the report of a scan, the tables of regions
derivatives    names, sidecars and folders of what is written, a BIDS derivative
progress       which stage runs, and how long it still takes
workers        many scans, on several processes or GPUs
"""
