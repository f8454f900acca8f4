"""Messages and their derivatives on a GPU, in Triton: the twin of ``messages.c``."""
