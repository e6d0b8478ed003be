"""The Robotics Diffusion Transformer: network, sampler, picture preprocessing, vision and language tokens."""
