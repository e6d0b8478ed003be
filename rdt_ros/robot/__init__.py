"""A robot's YAML file: names, order, limits, units, topics, and its place in the unified vector."""
