"""From a potential to force constants, phonon properties, metrics and a folder."""
