"""`flexquant-estimate`: what a model would take, before anything is downloaded, built or loaded."""
