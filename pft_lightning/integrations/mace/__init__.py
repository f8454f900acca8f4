"""Training as a configuration of ``mace_run_train`` says, with phonons."""

from pft_lightning.backends.registry import import_backend


import_backend("mace")  # says how to install it where it is missing
