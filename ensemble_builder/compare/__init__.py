"""The comparison of methods over several ensembles of one checkpoint: orders, ladders of whole models, searches."""
