"""Slow pure-Python sums over single voxels, sharing no code with the package.

A volume is a list of rows (one probability a class) and a list of labels, voxel by voxel; regions
by distance also need each voxel's place in mm.
"""

import itertools
import math
import struct

DILATED_MM, BOUNDARY_MM = 5.0, 3.0


def float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


EDGES = [float32(k / 60) for k in range(61)]


def cell(p):
    if p == 0:
        return 0
    return next(k for k in range(1, 61) if p <= EDGES[k] or k == 60)


def fixed(value, bits=30):
    scaled = value * 2**bits
    low = math.floor(scaled)
    rest = scaled - low
    return low + (rest > 0.5 or (rest == 0.5 and low % 2 == 1))


def places(shape, spacing):
    """Centers of the voxels in mm, last axis fastest."""
    axes = [[i * mm for i in range(n)] for n, mm in zip(shape, spacing, strict=True)]
    return list(itertools.product(*axes))


def near(labels, where, margin, wanted):
    """Whether each voxel has one at most ``margin`` mm away for which ``wanted(own, other)``."""
    return [
        any(
            wanted(own, other) and math.dist(a, b) <= margin
            for b, other in zip(where, labels, strict=True)
        )
        for a, own in zip(where, labels, strict=True)
    ]


def masks(labels, where, ignore_index=-100):
    """The regions by distance, as one list of booleans each."""
    return {
        "dilated": near(labels, where, DILATED_MM, lambda own, other: other > 0),
        "boundary": near(
            labels,
            where,
            BOUNDARY_MM,
            lambda own, other: own != other and ignore_index not in (own, other),
        ),
    }


def in_region(region, label, predicted):
    return {"all": True, "label": label > 0, "union": label > 0 or predicted > 0}[region]


def top_class(row):
    return max(range(len(row)), key=lambda k: (row[k], -k))


def confidences(row, unions):
    """Confidence of the top label, each class and each union."""
    sums = []
    for members in unions:
        total = row[members[0]]
        for k in members[1:]:
            total = float32(total + row[k])
        sums.append(min(total, 1.0))
    return [row[top_class(row)], *row, *sums]


def outcomes(row, label, unions):
    """Whether the top label, each class and each union is right."""
    singles = [label == k for k in range(len(row))]
    return [top_class(row) == label, *singles, *[label in members for members in unions]]


def selected(rows, labels, region, ignore_index=-100, where=None):
    """Rows and labels of one region."""
    mask = masks(labels, where, ignore_index)[region] if region in ("dilated", "boundary") else None
    return [
        (row, label)
        for n, (row, label) in enumerate(zip(rows, labels, strict=True))
        if label != ignore_index
        and (in_region(region, label, top_class(row)) if mask is None else mask[n])
    ]


def histogram(
    rows, labels, unions=(), regions=("all", "label", "union"), ignore_index=-100, where=None
):
    """Return ``{(region, channel, cell): [count, hits, offset]}`` for rows of probabilities."""
    table = {}
    for region in regions:
        for row, label in selected(rows, labels, region, ignore_index, where):
            pairs = zip(confidences(row, unions), outcomes(row, label, unions), strict=True)
            for channel, (p, hit) in enumerate(pairs):
                place = cell(p)
                entry = table.setdefault((region, channel, place), [0, 0, 0])
                entry[0] += 1
                entry[1] += int(hit)
                entry[2] += fixed(p) - int(EDGES[max(place - 1, 0)] * 2**30)
    return table


def channel_pairs(chosen, unions):
    """For each channel ``(confidence, hit, weight)`` of the chosen ``(row, label)``."""
    columns = [
        list(zip(confidences(row, unions), outcomes(row, label, unions), strict=True))
        for row, label in chosen
    ]
    return [[(p, hit, 1.0) for p, hit in column] for column in zip(*columns, strict=True)]


def expected_pairs(rows, posterior, region, unions):
    """The same with each possible label weighted by its posterior probability."""
    channels = None
    for row, chances in zip(rows, posterior, strict=True):
        channels = channels or [[] for _ in confidences(row, unions)]
        for label, chance in enumerate(chances):
            if in_region(region, label, top_class(row)):
                pairs = zip(confidences(row, unions), outcomes(row, label, unions), strict=True)
                for channel, (p, hit) in zip(channels, pairs, strict=True):
                    channel.append((p, hit, chance))
    return channels


def binned(pairs, n_bins):
    """Weight, hits and confidence of each non-empty bin."""
    table = {}
    for p, hit, weight in pairs:
        entry = table.setdefault(max(cell(p) - 1, 0) * n_bins // 60, [0.0, 0.0, 0.0])
        for q, value in enumerate((weight, weight * hit, weight * p)):
            entry[q] += value
    return list(table.values())


def deviation(n, p):
    """Mean of ``|Bin(n, p) / n - p|``, term by term."""
    return sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) * abs(k / n - p) for k in range(n + 1))


def errors(pairs, n_bins):
    """Every error of one channel that needs no whole counts."""
    table = binned(pairs, n_bins)
    total = math.fsum(n for n, _, _ in table)
    gaps = [(h - c) / n for n, h, c in table]
    shares = [n / total for n, _, _ in table]
    weighted = list(zip(shares, gaps, strict=True))
    return {
        "ece": sum(w * abs(g) for w, g in weighted),
        "ece_l2": math.sqrt(sum(w * g * g for w, g in weighted)),
        "ace": sum(map(abs, gaps)) / len(gaps),
        "mce": max(map(abs, gaps)),
        "signed": -sum(w * g for w, g in weighted),
        "over": sum(w * max(-g, 0) for w, g in weighted),
        "under": sum(w * max(g, 0) for w, g in weighted),
    }


def counted_errors(pairs, n_bins):
    """All errors of one channel, the noise floor and the debiased square among them."""
    table = [(round(n), h, c) for n, h, c in binned(pairs, n_bins)]
    total = sum(n for n, _, _ in table)
    square = 0.0
    for n, h, c in table:
        if n > 1:
            square += n / total * (((h - c) / n) ** 2 - h / n * (1 - h / n) / (n - 1))
    floor = sum(n / total * deviation(n, c / n) for n, _, c in table)
    return errors(pairs, n_bins) | {"ece_floor": floor, "ece_debiased_square": square}


def scores(chosen, floor=1e-12):
    """Brier score and negative log-likelihood."""
    brier = nll = 0.0
    for row, label in chosen:
        brier += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
        nll -= math.log(max(row[label], floor))
    return {"brier": brier / len(chosen), "nll": nll / len(chosen)}


def equal_mass_error(pairs, n_bins):
    """Error of bins of equal counts; a voxel at an edge belongs to both in proportion."""
    ordered = sorted(pairs)
    size = len(ordered) / n_bins
    error = 0.0
    for b in range(n_bins):
        gap = 0.0
        for rank, (p, hit, _) in enumerate(ordered):
            gap += max(0.0, min(rank + 1, (b + 1) * size) - max(rank, b * size)) * (hit - p)
        error += abs(gap) / len(ordered)
    return error


def smooth_error(pairs, points=1000, halvings=14):
    """The width at which the error smoothed by a reflected Gaussian equals it."""
    grid = [(i + 0.5) / points for i in range(points)]

    def smoothed(width):
        total = 0.0
        for t in grid:
            value = 0.0
            for p, hit, _ in pairs:
                for image in (p, -p, 2 - p, p - 2, 2 + p):
                    value += (hit - p) * math.exp(-(((t - image) / width) ** 2) / 2)
            total += abs(value)
        return total / (points * width * math.sqrt(2 * math.pi) * len(pairs))

    low, high = 0.0, 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed(middle) > middle else (low, middle)
    return high
