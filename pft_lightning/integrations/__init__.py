"""Training from the configuration files of other frameworks."""
