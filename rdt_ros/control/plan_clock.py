"""Plan time: runs with ROS time while the arms follow a plan, slower where limits slow them, stands with them."""

from __future__ import annotations

from collections import deque

KEPT_NS = 60_000_000_000  # older stamps are taken for the oldest one that is kept; chunks expire long before


class PlanClock:
    """The recent history of plan time against ROS time, piecewise linear; both in ns."""

    def __init__(self) -> None:
        self._points: deque[tuple[int, int]] = deque()

    def reset(self) -> None:
        """Forgets the history: ROS time begins anew."""
        self._points.clear()

    def record(self, ros_ns: int, plan_ns: int) -> None:
        """Notes the plan time of a tick; ticks must come in order."""
        points = self._points
        if len(points) >= 2:
            (ros_0, plan_0), (ros_1, plan_1) = points[-2], points[-1]
            if (plan_1 - plan_0) * (ros_ns - ros_1) == (plan_ns - plan_1) * (ros_1 - ros_0):
                points.pop()  # on the same line
        points.append((ros_ns, plan_ns))
        while len(points) > 2 and points[1][0] < ros_ns - KEPT_NS:
            points.popleft()

    def at(self, ros_ns: int) -> int:
        """Plan time at a moment of ROS time; outside the history that of its nearer end."""
        after: tuple[int, int] | None = None
        for point in reversed(self._points):
            if point[0] <= ros_ns:
                if after is None:
                    return point[1]
                return point[1] + (after[1] - point[1]) * (ros_ns - point[0]) // (after[0] - point[0])
            after = point
        return after[1] if after is not None else 0
