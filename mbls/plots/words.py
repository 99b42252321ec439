"""What regions and poolings are called in every table and figure, beside their names in files."""

__all__ = ["POOLING_WORDS", "REGION_WORDS", "region_words"]

REGION_WORDS = {
    "all": "all voxels",
    "label": "labelled foreground",
    "union": "labelled or predicted foreground",
    "dilated": "near labelled foreground",
    "boundary": "near a change of label",
}
POOLING_WORDS = {
    "pooled": "pooled",
    "micro": "pooled",
    "per_case": "per case",
    "weighted": "by voxels",
}


def region_words(region: str) -> str:
    """Return a region in words, with its name in files (``cases.csv``) where it differs.

    Example:
        >>> region_words("all"), region_words("dilated")
        ('all voxels', 'near labelled foreground (dilated)')
    """
    words = REGION_WORDS.get(region)
    if words is None:
        return region
    return words if region == "all" else f"{words} ({region})"
