"""Configurations: what the commands compose, and experiments."""

from pft_lightning.options.choices import register


register()
