"""Readers of isolated molecules with a full Hessian, one module for each kind."""
