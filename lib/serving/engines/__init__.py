"""Faster passes of the encoders: measured once a machine, and kept beside the run."""
