"""`chisep benchmark`: every variant on a labelled data set, from files to files, as it is used.

command.py      the command
measurement.py  one case by one variant: what it depends on, and its kept result
worker.py       the fresh process that makes it, so that peak memory is that of the variant alone
scoring.py      the metrics of a reconstruction
page.py         scoreboard.md, scores.csv and the figures
"""
