"""Episodes on disk: one HDF5 layout, written while recording, read back exactly; and rosbag2 as another source."""
