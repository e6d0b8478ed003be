"""Modules with the names and signatures of the reference's scripts, so that programs switch by changing one import."""
