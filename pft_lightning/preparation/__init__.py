"""What pft-prepare makes: stores, structures for DFT, labels, force constants."""
