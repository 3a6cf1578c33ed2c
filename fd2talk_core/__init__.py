"""FD2Talk: one portrait and one voice recording become a talking-head video, in two diffusion stages."""

__version__ = "0.1.0"
