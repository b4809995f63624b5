import pytest

from shd_vit.functional import group_sizes, merge_neighbours, merge_passes


@pytest.mark.parametrize(
    'heads, left, passes',
    [
        (6, 3, [3]),
        (9, 3, [4, 2]),
        (16, 6, [8, 2]),
        (25, 16, [9]),
        (40, 32, [8]),
        (12, 1, [6, 3, 1, 1]),
        (4, 4, []),
    ],
)
def test_passes_do_not_overshoot(heads, left, passes):
    assert merge_passes(heads, left) == passes
    assert heads - sum(passes) == left
    assert sum(group_sizes(heads, left)) == heads


def test_a_group_merges_as_those_heads_alone_would():
    """So its weights need no other group."""

    def tree(items, left):
        for merges in merge_passes(len(items), left):
            items = merge_neighbours(items, merges, lambda a, b: f'({a}{b})')
        return items

    for heads in range(1, 30):
        for left in range(1, heads + 1):
            items, alone = [f'{i} ' for i in range(heads)], []
            for size in group_sizes(heads, left):
                first = sum(map(str.isspace, ''.join(alone)))
                alone += tree(items[first : first + size], 1)
            assert tree(items, left) == alone
