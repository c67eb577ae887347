"""The experiment service: what is stored of runs, sweeps and models, and the jobs of a cluster."""
