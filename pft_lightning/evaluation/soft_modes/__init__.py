"""Soft modes: imaginary phonons, the double wells along them, and where they end."""
