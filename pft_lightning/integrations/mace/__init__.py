"""Training as a configuration of ``mace_run_train`` says, with phonons."""
