"""What keeps the arms inside their limits while they follow a policy: plan time, path, limits and the state machine."""
