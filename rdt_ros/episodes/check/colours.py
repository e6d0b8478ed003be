"""Colours whose red and blue look exchanged.

Nothing in a JPEG says it, so this is a comparison. A camera's colours are a histogram over the parts that red and blue
have of each pixel, weighted by how colourful it is; exchanging red and blue transposes it. Where the transposed one
fits the other pictures (other episodes of the set, else the other cameras of the episode) far better than the
histogram itself, the colours are called swapped. Gray scenes say nothing and are left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from rdt_ros.episodes.check.evidence import CameraEvidence, Evidence
from rdt_ros.episodes.check.findings import Finding, finding
from rdt_ros.episodes.check.thresholds import Thresholds

BINS = 32
BLUR_BINS = 1.5  # so that another light, which shifts all colours a little, does not matter
LEAST_COLOUR = 4.0  # mean distance, of 255, between the strongest and the weakest colour of the pixels
PIXEL_COLOUR = 24  # of a pixel, below which it counts as gray


def histogram(pictures: Sequence[np.ndarray]) -> np.ndarray | None:
    """(BINS, BINS) float32, part of red by part of blue, sums to 1; None where there is too little colour."""
    if not pictures:
        return None
    pixels = np.concatenate([picture.reshape(-1, 3) for picture in pictures]).astype(np.float32)
    weight = np.ptp(pixels, axis=1)
    if weight.mean() < LEAST_COLOUR:
        return None
    weight[weight < PIXEL_COLOUR] = 0.0
    total = np.maximum(pixels.sum(axis=1), 1.0)
    counts, _, _ = np.histogram2d(
        pixels[:, 0] / total, pixels[:, 2] / total, BINS, range=((0, 1), (0, 1)), weights=weight
    )
    blurred = cv2.GaussianBlur(counts.astype(np.float32), (0, 0), BLUR_BINS)
    return blurred / blurred.sum() if blurred.sum() > 0 else None


def exchange_gain(colours: np.ndarray, others: Sequence[np.ndarray], thresholds: Thresholds) -> float | None:
    """How much better, up to 1, a histogram fits the others with red and blue exchanged; None where it does not.

    Exchanged it must fit well, not only better: a view of its own fits neither way.
    """
    together = np.mean(others, axis=0)
    exchanged = _distance(colours.T, together)
    gain = _distance(colours, together) - exchanged
    return gain if gain > thresholds.swap_margin and exchanged < thresholds.swap_distance else None


def of(evidence: Evidence) -> dict[str, np.ndarray]:
    """Histogram of every camera that has colour."""
    found = {pictures.camera.name: _of_camera(pictures) for pictures in evidence.cameras}
    return {name: colours for name, colours in found.items() if colours is not None}


def judge(evidence: Evidence, thresholds: Thresholds) -> Iterator[Finding]:
    """Findings about colours within one episode: what the file says of itself, and one camera against the others."""
    order = evidence.attributes.get("colour_order", "rgb" if evidence.ours else "unsaid")
    if evidence.ours and order != "rgb":
        yield finding("colour_order", "colour_order", expected="rgb", found=str(order))
    colours = of(evidence)
    if len(colours) < 3:
        return  # of two that differ nothing says which one is wrong
    for name, own in colours.items():
        gain = exchange_gain(own, [other for key, other in colours.items() if key != name], thresholds)
        if gain is not None:
            yield finding(
                "colours",
                name,
                expected="the colours of the other cameras",
                found=f"red and blue look exchanged (fits {gain:.0%} better so)",
                severity="note",  # views may differ: a wrist over a blue cloth is no fault
            )


def _of_camera(pictures: CameraEvidence) -> np.ndarray | None:
    return histogram([p for p, regular in zip(pictures.thumbnails, pictures.regular, strict=True) if regular])


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """0 where equal, 1 where they share no colour."""
    return float(np.abs(one - other).sum() / 2)
