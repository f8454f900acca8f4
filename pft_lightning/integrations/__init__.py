"""Phonon fine-tuning from the training programs and configurations of others."""
