"""Slow pure-Python sums, sharing no code with the package."""

import math
import struct


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


def in_region(region, label, predicted):
    return {
        "all": True,
        "label": label > 0,
        "union": label > 0 or predicted > 0,
    }[region]


def histogram(rows, labels, unions=(), regions=("all", "label", "union"), ignore_index=-100):
    """Return ``{(region, channel, cell): [count, hits, offset]}`` for rows of probabilities."""
    table = {}
    for row, label in zip(rows, labels, strict=True):
        if label == ignore_index:
            continue
        predicted = max(range(len(row)), key=lambda k: (row[k], -k))
        channels = [(row[predicted], predicted == label)]
        channels += [(p, label == k) for k, p in enumerate(row)]
        for members in unions:
            total = row[members[0]]
            for k in members[1:]:
                total = float32(total + row[k])
            channels.append((min(total, 1.0), label in members))
        for region in regions:
            if not in_region(region, label, predicted):
                continue
            for channel, (p, hit) in enumerate(channels):
                where = cell(p)
                entry = table.setdefault((region, channel, where), [0, 0, 0])
                entry[0] += 1
                entry[1] += int(hit)
                entry[2] += fixed(p) - int(EDGES[max(where - 1, 0)] * 2**30)
    return table


def expected_error(pairs, n_bins):
    """Top-label style ECE of (confidence, hit) pairs in right-closed bins, zero in the first."""
    gaps = [0.0] * n_bins
    for p, hit in pairs:
        first = next(b for b in range(n_bins) if p <= (b + 1) / n_bins or b == n_bins - 1)
        gaps[first] += hit - p
    return sum(map(abs, gaps)) / len(pairs)
