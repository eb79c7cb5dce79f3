"""Names of pairs and subsets of modalities, for display."""

from collections.abc import Iterable


def display_names(
    keys: Iterable[tuple[str, ...]], separator: str = '_'
) -> dict[tuple[str, ...], str]:
    """Join the names of each key into one text; keys that differ get texts that differ.

    Computations use the keys, since joined names may be alike: ``a`` and ``b_c``, ``a_b``
    and ``c``. Such names are quoted.

    Args:
        keys: names of modalities, such as pairs.
        separator: what stands between two names.

    Returns:
        The text of each key, in order.

    Example:
        >>> display_names([('s1', 's2'), ('s1', 'dem')])
        {('s1', 's2'): 's1_s2', ('s1', 'dem'): 's1_dem'}
        >>> list(display_names([('a', 'b_c'), ('a_b', 'c')]).values())
        ["'a'_'b_c'", "'a_b'_'c'"]
    """
    joined = {key: separator.join(key) for key in keys}
    texts = list(joined.values())
    # Not texts.count, which torch.compile cannot follow in torch 2.6.
    return {
        key: text
        if sum(t == text for t in texts) == 1
        else separator.join(map(repr, key))
        for key, text in joined.items()
    }
