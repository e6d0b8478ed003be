"""The simulated robot: MuJoCo model, scene, physics, cameras and the scripted expert."""
