"""Exports: one file that is the whole detector, verified against its checkpoint."""
