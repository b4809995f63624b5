import itertools

import pytest
import references
import torch
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.functional import (
    group_sizes,
    head_weights,
    merge_maps,
    squeeze_heads,
    weigh_constant,
    weigh_linear,
    weigh_simplex,
)
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.merging import MERGING_STRATEGIES, Groups, MergingStrategy
from shd_vit.merging.matching import match_heads
from shd_vit.taps import AttentionTap, select_heads

NAMES = ['linear', 'constant', 'hard', 'head_matching', 'simplex']


def tap(heads, B=2, N=5, D=4, seed=0, bias=None):
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(B, heads, N, D, generator=g, dtype=torch.float64) for _ in range(3))
    out_proj = torch.randn(10, heads * D, generator=g, dtype=torch.float64)
    return AttentionTap(3 * q, k, v, out_proj, 0.5, bias)


class Model:
    def __init__(self, role, heads, depth=2):
        self.role, self.heads, self.depth = role, [heads] * depth, depth
        self.stages, self.prefix_tokens = [list(range(1, depth + 1))], ('cls',)


def bound(strategy, student=3, teacher=6, **kwargs):
    loss = SHDLoss(strategy=strategy, compile=False, **kwargs)
    loss.bind(Model('student', student), Model('teacher', teacher))
    return loss


def outputs(student=3, teacher=6):
    return [
        ModelOutput(None, {n: tap(heads, seed=seed + n) for n in (1, 2)}, {})
        for heads, seed in ((student, 0), (teacher, 10))
    ]


def settled(loss, teacher):
    if not loss.is_settled:
        loss.observe(teacher)
        loss.settle()
    return loss


def kl_to(student, targets):
    return sum(
        references.attention_kl(
            student.attention[n].q, student.attention[n].k, targets[n], student.attention[n].scale
        )
        for n in (1, 2)
    )


def maps_of(t):
    return references.softmax_maps(t.q, t.k, t.scale, bias=t.bias)


def test_hard_takes_whole_heads_and_leaves_the_rest():
    """The loss is that of one of the C(6, 3) choices of each layer, and of no mixture."""
    student, teacher = outputs()
    loss = bound('hard')
    value = loss(student, teacher, None)
    chosen = {n: loss.strategy.heads((n, n)) for n in (1, 2)}
    assert_close(
        value, kl_to(student, {n: maps_of(teacher.attention[n])[:, chosen[n]] for n in (1, 2)})
    )
    assert all(len(set(heads.tolist())) == 3 for heads in chosen.values())


def test_hard_draws_by_seed_and_stays_with_its_checkpoint():
    def draw(seed):
        return torch.cat(list(bound(dict(type='hard', seed=seed)).state_dict().values()))

    assert_close(draw(1), draw(1))
    assert any(not torch.equal(draw(0), draw(seed)) for seed in range(1, 5))
    torch.manual_seed(7)
    by_run = torch.cat(list(bound('hard').state_dict().values()))
    assert_close(by_run, draw(7))
    before = torch.get_rng_state()
    bound('hard')
    assert torch.equal(before, torch.get_rng_state())  # the student's first weights stay the same
    other = bound(dict(type='hard', seed=3))
    other.load_state_dict(bound(dict(type='hard', seed=1)).state_dict())
    assert_close(torch.cat(list(other.state_dict().values())), draw(1))


@pytest.mark.parametrize('heads, left', [(6, 3), (9, 3), (16, 6), (7, 2)])
def test_constant_weighs_every_pair_by_a_half(heads, left):
    maps = maps_of(tap(heads))
    expected = list(maps.unbind(1))
    while len(expected) > left:
        n = min(len(expected) // 2, len(expected) - left)
        pairs = [(expected[2 * i] + expected[2 * i + 1]) / 2 for i in range(n)]
        expected = pairs + expected[2 * n :]
    merged = merge_maps(maps, None, None, group_sizes(heads, left), weigh_constant)
    assert_close(merged, torch.stack(expected, 1))


def test_constant_is_the_loss_against_the_mean_of_pairs():
    student, teacher = outputs()
    value = bound('constant')(student, teacher, None)
    means = {n: maps_of(teacher.attention[n]).unflatten(1, (3, 2)).mean(2) for n in (1, 2)}
    assert_close(value, kl_to(student, means))


def test_matching_takes_the_most_similar_pairs():
    """Six heads, copied in pairs and shuffled: it finds the pairs again."""
    _, teacher = outputs()
    order = [4, 0, 3, 1, 5, 2]
    shuffled = {}
    for n, t in teacher.attention.items():
        three = t.q[:, :3].repeat_interleave(2, 1)
        noisy = three + 0.01 * t.q
        keys = t.k[:, :3].repeat_interleave(2, 1)
        shuffled[n] = select_heads(t._replace(q=noisy, k=keys), torch.tensor(order))
    loss = settled(bound('head_matching'), ModelOutput(None, shuffled, {}))
    found = loss.strategy.order((1, 1)).tolist()
    pairs = {frozenset(order[h] // 2 for h in found[i : i + 2]) for i in (0, 2, 4)}
    assert pairs == {frozenset([0]), frozenset([1]), frozenset([2])}


def test_matching_merges_linearly_in_its_order():
    student, teacher = outputs()
    loss = settled(bound('head_matching'), teacher)
    targets = {}
    for n, t in teacher.attention.items():
        order = loss.strategy.order((n, n))
        assert sorted(order.tolist()) == list(range(6))
        maps = maps_of(t)[:, order]
        weights = t.out_proj.unflatten(1, (6, 4))[:, order].flatten(1)
        targets[n], _ = references.squeeze_heads(maps, t.v[:, order], weights, 3)
    assert_close(loss(student, teacher, None), kl_to(student, targets))


@pytest.mark.parametrize('heads, left', [(4, 2), (6, 3), (5, 4)])
def test_matched_pairs_are_the_greedy_ones(heads, left):
    g = torch.Generator().manual_seed(heads)
    similarity = torch.rand(heads, heads, generator=g)
    similarity = similarity + similarity.T
    order = match_heads(similarity, left)
    assert sorted(order) == list(range(heads))
    free, expected = set(range(heads)), []
    for _ in range(heads - left):
        best = max(itertools.combinations(sorted(free), 2), key=lambda p: similarity[p].item())
        free -= set(best)
        expected.append(best)
    assert [tuple(order[2 * i : 2 * i + 2]) for i in range(heads - left)] == expected


@pytest.mark.parametrize('heads, left', [(7, 2), (9, 3), (16, 6), (13, 2), (25, 16), (12, 1)])
def test_an_order_of_matched_heads_merges_them_as_matched(heads, left):
    """Two families of alike heads: each pass joins within a family while it can."""
    family = torch.arange(heads) % 2
    similarity = (family[:, None] == family).double() + 0.01 * torch.rand(heads, heads)
    similarity = similarity + similarity.T
    order = match_heads(similarity, left)
    assert sorted(order) == list(range(heads))
    first_pass = min(heads // 2, heads - left)
    mixed = sum(family[order[2 * i]] != family[order[2 * i + 1]] for i in range(first_pass))
    assert mixed <= 1


def test_matching_asks_for_images_first():
    student, teacher = outputs()
    loss = bound('head_matching')
    assert not loss.is_settled
    with pytest.raises(ConfigError, match='HeadMatching must see training images first'):
        loss(student, teacher, None)
    with pytest.raises(ConfigError, match='has seen no training image'):
        loss.settle()
    state = settled(loss, teacher).state_dict()
    resumed = bound('head_matching')
    resumed.load_state_dict(state)
    assert resumed.is_settled
    assert_close(resumed(student, teacher, None), loss(student, teacher, None))


@pytest.mark.parametrize('name', NAMES)
def test_head_biases_go_with_their_heads(name):
    """A bias that forbids all keys but one, another for each head."""
    student, teacher = outputs()
    shown = torch.arange(6) % 5
    bias = torch.full((6, 5, 5), float('-inf'), dtype=torch.float64)
    bias[torch.arange(6), :, shown] = 0
    bias = bias.clamp(min=-1e4)
    biased = {n: t._replace(bias=bias) for n, t in teacher.attention.items()}
    loss = settled(bound(name), ModelOutput(None, biased, {}))
    order = {'hard': 'heads', 'head_matching': 'order'}.get(name)
    heads = getattr(loss.strategy, order)((1, 1)) if order else None
    given = loss.strategy.groups((1, 1), (3, 6)).order
    assert torch.equal(given, heads) if order else given is None
    heads = heads if order else torch.arange(6)
    arranged = select_heads(biased[1], heads)
    assert_close(maps_of(arranged), maps_of(biased[1])[:, heads])
    assert loss(student, ModelOutput(None, biased, {}), None).isfinite()


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('distance', ['kl', 'mse'])
def test_equal_head_counts_need_no_merging(name, distance):
    """Every strategy then compares head with head, if perhaps in another order."""
    student, teacher = outputs(student=6)
    loss = settled(bound(name, student=6, distance=distance), teacher)
    value = loss(student, teacher, None)
    if name in ('linear', 'constant', 'simplex'):
        targets = {n: maps_of(t) for n, t in teacher.attention.items()}
        if distance == 'kl':
            assert_close(value, kl_to(student, targets))
        else:
            squares = ((maps_of(student.attention[n]) - targets[n]).square() for n in (1, 2))
            assert_close(value, sum(s.sum((1, 3)).mean() for s in squares))
    assert value > 0


@pytest.mark.parametrize('name', NAMES)
def test_gradients_reach_the_student_alone(name):
    student, teacher = outputs()
    leaf = student.attention[1].q.requires_grad_()
    source = teacher.attention[1].q.requires_grad_()
    loss = settled(bound(name), teacher)
    loss(student, teacher, None).backward()
    assert leaf.grad.abs().max() > 0
    assert source.grad is None


def test_strategies_differ():
    student, teacher = outputs(teacher=12)
    values = {
        name: settled(bound(name, teacher=12), teacher)(student, teacher, None).item()
        for name in NAMES
    }
    assert len(set(values.values())) == len(NAMES)


def test_a_strategy_of_ones_own():
    @MERGING_STRATEGIES.register('first')
    class First(MergingStrategy):
        """The first head of each group, and more of it where the group is larger."""

        uses_values = False

        @staticmethod
        def weigh(outputs, gram):
            assert gram is None and outputs.numel() == 0
            first = torch.zeros(len(outputs), outputs.shape[3], dtype=outputs.dtype)
            return first.index_fill(1, torch.tensor(0), 1)

        def groups(self, pair, heads):
            assert pair in [(1, 1), (2, 2)] and heads == (3, 6)
            return Groups((3, 1, 1), torch.tensor([5, 0, 1, 2, 3]))

    try:
        student, teacher = outputs()
        firsts = {n: maps_of(t)[:, [5, 2, 3]] for n, t in teacher.attention.items()}
        loss = bound('first')
        assert_close(loss(student, teacher, None), kl_to(student, firsts))
        loss.strategy.weigh = lambda outputs, gram: outputs.new_ones(2, 2)
        with pytest.raises(ValueError, match=r'gives weights \(2, 2\): expected \(B, k\) \(2, 3\)'):
            loss(student, teacher, None)
        with pytest.raises(ValueError, match="'first' is registered already"):
            MERGING_STRATEGIES.register('first')(First)
    finally:
        del MERGING_STRATEGIES.strategies['first']


@pytest.mark.parametrize(
    'strategy, message',
    [
        ('best', "strategy='best' is unknown; allowed are 'constant', 'hard', 'head_matching'"),
        (dict(seed=1), 'is unknown'),
        (dict(type='linear', seed=1), "unexpected keyword argument 'seed'"),
    ],
)
def test_bad_strategies_are_named(strategy, message):
    with pytest.raises(ConfigError, match=message):
        SHDLoss(strategy=strategy)
    with pytest.raises(ConfigError, match="distance='l1' must be one of 'kl', 'mse'"):
        SHDLoss(distance='l1')


@pytest.mark.parametrize('sizes', [(2, 4), (1, 5), (3, 3), (1, 1, 4)])
def test_linear_in_groups_of_ones_own(sizes):
    """Each group is merged as those heads alone would be."""
    t, merged, start = tap(6), [], 0
    for size in sizes:
        heads = slice(start, start + size)
        weight = t.out_proj[:, 4 * start : 4 * (start + size)]
        merged.append(references.squeeze_heads(maps_of(t)[:, heads], t.v[:, heads], weight, 1)[0])
        start += size
    found = merge_maps(maps_of(t), t.v, t.out_proj.T @ t.out_proj, sizes)
    assert_close(found, torch.cat(merged, 1))


@pytest.mark.parametrize('heads, left', [(6, 3), (9, 3), (12, 3), (7, 2), (5, 1), (16, 6), (4, 4)])
@pytest.mark.parametrize('weigh', [weigh_linear, weigh_constant, weigh_simplex])
def test_every_strategy_is_weights_within_groups(heads, left, weigh):
    """One a teacher head and sample, that sum to 1 in each group: the maps are their sums."""
    t, sizes = tap(heads, B=3), group_sizes(heads, left)
    maps, gram = maps_of(t), t.out_proj.T @ t.out_proj
    weights = head_weights(maps, t.v, gram, sizes, weigh)
    assert weights.shape == (3, heads) and weights.min() >= 0
    merged, start = merge_maps(maps, t.v, gram, sizes, weigh), 0
    for group, size in enumerate(sizes):
        of_group = weights[:, start : start + size]
        assert_close(of_group.sum(1), torch.ones_like(of_group[:, 0]))
        expected = (of_group[..., None, None] * maps[:, start : start + size]).sum(1)
        assert_close(merged[:, group], expected, rtol=1e-9, atol=1e-9)
        start += size
    if weigh is weigh_linear:
        assert_close(merged, references.squeeze_heads(maps, t.v, t.out_proj, left)[0])


def test_linear_is_what_squeeze_heads_does():
    student, teacher = outputs()
    squeezed = {
        n: squeeze_heads(maps_of(t), t.v, t.out_proj, 3).maps for n, t in teacher.attention.items()
    }
    assert_close(bound('linear')(student, teacher, None), kl_to(student, squeezed))
