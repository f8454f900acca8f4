"""Phonon fine-tuning inside the training programs of other packages."""
