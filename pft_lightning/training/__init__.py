"""Lightning modules and what they are made of."""
