"""Long maps, a tile at a time, against float64 autograd through literal maps."""

import pytest
import references
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shd_vit.functional import (
    Mask,
    attention_maps,
    gram_matrix,
    group_sizes,
    head_weights,
    map_cosines,
    merge_maps,
    shd_loss,
    tiles,
    weigh_constant,
    weigh_linear,
    weigh_simplex,
)

WEIGHS = [weigh_linear, weigh_constant, weigh_simplex]
BLOCKS = [(1, 0, 1), (2, 60, 3), (4, 150, 5)]  # one row and head; larger ones that leave a rest


def part(monkeypatch, fewest, elements, rows):
    monkeypatch.setattr(tiles, 'WHOLE_ROWS', {True: -1, False: -1})
    monkeypatch.setattr(tiles, 'FEWEST_ROWS', fewest)
    monkeypatch.setattr(tiles, 'ROWS', rows)
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', elements)


@pytest.fixture(params=BLOCKS)
def in_tiles(request, monkeypatch):
    """Nothing is whole."""
    part(monkeypatch, *request.param)


def masks(B=2, N=9):
    """By name: what there is, and how many keys precede the queries."""
    left, right = torch.ones(2, B, N, dtype=torch.bool).unbind(0)
    left[0, :3], right[1, -4:] = False, False
    packed = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [5, 5, 5, 5, 5, 5, 3, 3, 3]])
    longer = torch.ones(B, N + 3, dtype=torch.bool)
    longer[0, :4] = False
    return {
        'none': Mask(),
        'causal': Mask(is_causal=True),
        'after a prefix': Mask(is_causal=True, offset=3),
        'after a padded prefix': Mask(is_causal=True, offset=3, padding=longer),
        'window': Mask(is_causal=True, window=3),
        'window of one': Mask(is_causal=True, window=1),
        'window on both sides': Mask(window=2),
        'padded left': Mask(is_causal=True, padding=left),
        'padded right': Mask(is_causal=True, padding=right),
        'padded': Mask(padding=right),
        'nothing but padding': Mask(padding=right & (torch.arange(B) > 0)[:, None]),
        'packed': Mask(is_causal=True, documents=packed),
        'packed, to both sides': Mask(documents=packed),
        'all at once': Mask(is_causal=True, window=4, padding=left, documents=packed),
    }


def layer(mask, heads=(2, 5), B=2, N=9, D=3, dtype=torch.float64):
    """Query and key of a student; query, key, value and out_proj of a teacher; both scales."""
    (Hs, Ht), M = heads, N + mask.offset
    q, k = (torch.randn(B, Hs, n, D, dtype=dtype).requires_grad_() for n in (N, M))
    tq, tk, v = (torch.randn(B, Ht, n, D + 1, dtype=dtype) for n in (N, M, M))
    return [q, k, 2 * tq, tk, v, torch.randn(7, Ht * (D + 1), dtype=dtype), 0.5, 0.4]


def seen(mask, B, N):
    """Which keys each query sees, pair by pair from the words of :class:`Mask`."""
    M = N + mask.offset
    result = torch.zeros(B, 1, N, M, dtype=torch.bool)
    for b in range(B):
        for i in range(N):
            for j in range(M):
                place = i + mask.offset
                sees = not mask.is_causal or j <= place
                sees &= mask.window is None or abs(place - j) < mask.window
                sees &= mask.padding is None or bool(mask.padding[b, j])
                if mask.documents is not None:
                    sees &= bool(mask.documents[b, j] == mask.documents[b, place])
                result[b, 0, i, j] = sees
    return result


def literal(args, mask, distance='kl', weigh=weigh_linear, T=1.5, bias=None, teacher_bias=None):
    """Through softmaxes of whole maps, by autograd."""
    q, k, tq, tk, v, out_proj, scale, teacher_scale = args
    B, Hs, N, _ = q.shape
    visible = seen(mask, B, N)
    own = visible.any(-2)[..., mask.offset :]  # whose own key is seen
    counted = visible.any(-1) & own
    hidden = torch.zeros(visible.shape, dtype=torch.float64)
    hidden = hidden.masked_fill(~visible, -1e300)

    def maps_of(q, k, scale, bias):
        logits = (q.double() @ k.double().mT * scale + (0 if bias is None else bias)) / T
        return (logits + hidden).softmax(-1)

    with torch.no_grad():
        maps = maps_of(tq, tk, teacher_scale, teacher_bias) * counted[..., None]
        if weigh is weigh_linear:
            target, _ = references.squeeze_heads(maps, v, out_proj, Hs)
            # The loops divide 0 by 0 where all maps are the same: any weights do.
            target = torch.where(target.isnan(), maps[:, :1], target)
        else:
            sizes = group_sizes(maps.shape[1], Hs)
            gram = gram_matrix(out_proj.double())
            target = merge_maps(maps, v.double(), gram, sizes, weigh)
        target = target * counted[..., None]
    student = maps_of(q, k, scale, bias)
    if distance == 'mse':
        by_row = (student - target).square().sum(-1)
    else:
        log_p = student.clamp(min=1e-300).log()
        by_row = (torch.special.xlogy(target, target) - target * log_p).sum(-1)
    return (by_row * counted).sum() / counted.sum().clamp(min=1)


def check(args, mask, leaves, **options):
    """Loss and gradients of the tiles are the literal ones."""
    T = options.pop('T', 1.5)
    loss = shd_loss(*args, T, mask=mask, teacher_mask=mask, backend='torch', **options)
    expected = literal(args, mask, T=T, **options)
    # The steps to the best weights are counted: they end near enough, not at one place.
    near = 2e-3 if options.get('weigh') is weigh_simplex else 1e-9
    assert_close(loss, expected, rtol=near, atol=1e-10)
    gradients = (torch.autograd.grad(3 * x, leaves) for x in (loss, expected))
    assert_close(*gradients, rtol=100 * near, atol=near)


@pytest.mark.parametrize('name', masks())
@pytest.mark.parametrize('distance', ['kl', 'mse'])
def test_masks(name, distance, in_tiles):
    mask = masks()[name]
    args = layer(mask)
    check(args, mask, args[:2], distance=distance)


@pytest.mark.parametrize('name', masks())
def test_masks_of_whole_maps(name):
    mask = masks()[name]
    args = layer(mask)
    check(args, mask, args[:2])


@pytest.mark.parametrize('name', ['none', 'causal', 'padded left', 'after a prefix'])
@pytest.mark.parametrize('weigh', WEIGHS)
@pytest.mark.parametrize('heads', [(2, 5), (3, 6), (2, 7), (1, 4), (3, 3)])
def test_strategies(name, weigh, heads, in_tiles):
    mask = masks()[name]
    args = layer(mask, heads)
    check(args, mask, args[:2], weigh=weigh)


@pytest.mark.parametrize('weigh', WEIGHS)
@pytest.mark.parametrize('heads, N', [((1, 1), 5), ((1, 1), 1), ((2, 4), 1), ((1, 3), 2)])
def test_one_token_and_one_head(weigh, heads, N, in_tiles):
    for mask in (Mask(), Mask(is_causal=True)):
        args = layer(mask, heads, N=N)
        if N > 1:
            check(args, mask, args[:2], weigh=weigh)
        else:  # whatever the weights, maps of a token are 1
            options = dict(mask=mask, teacher_mask=mask, weigh=weigh)
            loss = shd_loss(*args, **options)
            assert_close(loss, torch.zeros_like(loss))


@pytest.mark.parametrize('shape', [(9, 9), (1, 5, 9, 9), (2, 1, 9, 9), (2, 5, 1, 9), (5, 9, 9)])
@pytest.mark.parametrize('distance', ['kl', 'mse'])
def test_a_learned_bias_beside_a_mask(shape, distance, in_tiles):
    mask = masks()['padded left']
    args = layer(mask)
    own = tuple(2 if n == 5 else n for n in shape)
    bias = torch.randn(own, dtype=torch.float64).requires_grad_()
    teacher_bias = torch.randn(shape, dtype=torch.float64)
    leaves = [*args[:2], bias]
    check(args, mask, leaves, distance=distance, bias=bias, teacher_bias=teacher_bias)


@pytest.mark.parametrize('name', ['causal', 'padded left', 'window', 'packed', 'padded'])
def test_bool_and_additive_masks_are_the_same_as_what_they_say(name, in_tiles):
    mask = masks()[name]
    args = layer(mask)
    visible = seen(mask, 2, 9)
    additive = torch.zeros(visible.shape, dtype=torch.float64)
    additive = additive.masked_fill(~visible, float('-inf'))
    losses = [
        shd_loss(*args, mask=mask, teacher_mask=mask),
        shd_loss(*args, bias=visible, teacher_bias=visible),
        shd_loss(*args, bias=additive, teacher_bias=additive),
        shd_loss(*args, bias=visible, teacher_mask=mask),
        shd_loss(*args, bias=visible, mask=mask, teacher_bias=additive, teacher_mask=mask),
    ]
    gradients = [torch.autograd.grad(loss, args[:2]) for loss in losses]
    for loss, of_leaves in zip(losses[1:], gradients[1:], strict=True):
        assert_close(loss, losses[0])
        assert_close(of_leaves, gradients[0])


def test_grouped_key_heads(in_tiles):
    """A pair of merged heads may or may not have one key head in common."""
    mask = masks()['padded left']
    args = layer(mask, (4, 6))
    few = torch.randn(2, 2, 9, 3, dtype=torch.float64).requires_grad_()
    args[1] = few.repeat_interleave(2, dim=1)
    for place in (3, 4):
        args[place] = args[place][:, :2].repeat_interleave(3, dim=1)
    check(args, mask, [args[0], few])


@pytest.mark.parametrize('distance', ['kl', 'mse'])
def test_gradcheck(distance, monkeypatch):
    part(monkeypatch, *BLOCKS[1])
    mask = Mask(is_causal=True, padding=torch.tensor([[False, True, True, True]]))
    args = layer(mask, (2, 4), B=1, N=4, D=2)
    bias = torch.randn(2, 4, 4, dtype=torch.float64).requires_grad_()
    options = dict(mask=mask, teacher_mask=mask, distance=distance)

    def loss(q, k, bias):
        return shd_loss(q, k, *args[2:], 1.5, bias=bias, **options)

    assert gradcheck(loss, (*args[:2], bias))


@pytest.mark.parametrize('weigh', WEIGHS)
@pytest.mark.parametrize('name', ['none', 'causal', 'padded left', 'packed'])
def test_block_sizes_change_nothing_but_rounding(weigh, name, monkeypatch):
    mask = masks()[name]
    args = layer(mask, (3, 8), dtype=torch.float32)
    results = []
    for sizes in (None, *BLOCKS, (1, 17, 2), (3, 90, 9)):
        if sizes:
            part(monkeypatch, *sizes)
        loss = shd_loss(*args, mask=mask, teacher_mask=mask, weigh=weigh, backend='torch')
        results.append((loss, *torch.autograd.grad(loss, args[:2])))
    for result in results[1:]:
        assert_close(result, results[0], rtol=2e-5, atol=1e-6)


def test_backward_keeps_no_more_than_the_gradients(in_tiles):
    mask, kept = masks()['padded left'], []
    args = layer(mask)
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        shd_loss(*args, mask=mask, teacher_mask=mask)
    assert sorted(x.shape for x in kept) == [args[0].shape, args[1].shape]


@pytest.mark.parametrize('weigh', WEIGHS)
def test_nothing_of_n_by_n_is_ever_made(weigh):
    """Of 800 tokens, with the blocks as they are: no tensor is as large as a map of one head."""
    padding = torch.ones(2, 800, dtype=torch.bool)
    padding[0, :100] = False
    for mask in (Mask(), Mask(True, padding=padding), Mask(True, window=50), Mask(padding=padding)):
        sizes = []

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None, sizes=sizes):
                out = func(*args, **(kwargs or {}))
                sizes.extend(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))
                return out

        args = layer(mask, (2, 4), N=800, D=4, dtype=torch.float32)
        with Watch():
            shd_loss(*args, mask=mask, teacher_mask=mask, weigh=weigh, backend='torch').backward()
        assert max(sizes) < 800**2
        if mask.window:
            assert max(sizes) < 4 * (tiles.ROWS + 50) * tiles.ROWS + 800 * 32


@pytest.mark.parametrize('low', [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(low, in_tiles):
    mask = masks()['padded left']
    args = layer(mask)
    half = [x.detach().to(low) for x in args[:6]]
    half[:2] = [x.requires_grad_() for x in half[:2]]
    loss = shd_loss(*half, *args[6:], mask=mask, teacher_mask=mask)
    wide = [x.detach().double() for x in half]
    wide[:2] = [x.requires_grad_() for x in wide[:2]]
    expected = literal([*wide, *args[6:]], mask, T=1.0)
    assert loss.dtype == torch.float32
    assert_close(loss.double(), expected, rtol=2e-3, atol=1e-5)
    gradients = torch.autograd.grad(loss, half[:2])
    for gradient, exactly in zip(gradients, torch.autograd.grad(expected, wide[:2]), strict=True):
        assert gradient.dtype == low
        assert (gradient.double() - exactly).norm() < 0.02 * exactly.norm()


@pytest.mark.parametrize('name', masks())
def test_cosines_of_maps(name, in_tiles):
    mask = masks()[name]
    _, _, q, k, *_ = layer(mask)
    maps = attention_maps(q, k, 0.4, mask=mask).flatten(2)
    maps = torch.nn.functional.normalize(maps, dim=-1)
    assert_close(map_cosines(q, k, 0.4, None, mask), maps @ maps.mT)


def test_maps_of_a_mask_are_those_of_the_pairs_it_lets_through():
    for mask in masks().values():
        q, k = layer(mask)[:2]
        visible = seen(mask, 2, 9)
        bias = torch.zeros(visible.shape).double().masked_fill(~visible, -1e300)
        counted = visible.any(-1) & visible.any(-2)[..., mask.offset :]
        expected = references.softmax_maps(q, k, 0.5, bias=bias) if mask.offset == 0 else None
        maps = attention_maps(q, k, 0.5, mask=mask)
        if expected is not None:
            assert_close(maps, expected * counted[..., None])
        assert_close(maps.sum(-1), counted.double().expand(2, 2, 9))
        assert (maps[~visible.expand_as(maps)] == 0).all()


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(window=0), 'window=0 leaves queries without keys: at least 1'),
        (dict(offset=-1), 'offset=-1 leaves queries without keys: at least 0'),
        (dict(offset=2), r'9 queries and 9 keys with offset=2 .*: expected 11 keys'),
        (dict(padding=torch.ones(2, 8).bool()), r'padding \(2, 8\) must be \(B, N\) = \(2, 9\)'),
        (dict(padding=torch.ones(2, 9)), 'padding is torch.float32: expected bool'),
        (dict(documents=torch.ones(1, 9)), r'documents \(1, 9\) must be \(B, N\) = \(2, 9\)'),
    ],
)
def test_masks_that_do_not_fit_are_refused(change, message):
    args, mask = layer(Mask()), Mask(**change)
    for options in (dict(mask=mask), dict(teacher_mask=mask)):
        with pytest.raises(ValueError, match=message):
            shd_loss(*args, **options)


def test_shapes_that_do_not_fit_are_refused():
    def changed(place, tensor):
        args = layer(Mask())
        args[place] = tensor
        return args

    long = torch.randn(2, 2, 10, 3, dtype=torch.float64)
    for args, options, message in (
        (changed(1, long), {}, '9 queries and 10 keys with offset=0 of the mask: expected 9'),
        (changed(0, long), {}, '10 queries and 9 keys with offset=0 of the mask: expected 10'),
        (changed(1, long[:, :1, :9]), {}, r'key \(2, 1, 9, 3\) .* expected \(2, 2, 9, 3\)'),
        (changed(2, torch.randn(2, 5, 8, 4)), {}, r'teacher_query \(2, 5, 8, 4\) does not fit'),
        (changed(3, torch.randn(2, 5, 8, 4)), {}, '9 queries and 8 keys'),
        (changed(4, torch.randn(2, 5, 8, 4)), {}, r'value \(2, 5, 8, 4\)'),
        (changed(5, torch.randn(7, 19)), {}, r'out_proj \(7, 19\)'),
        (layer(Mask()), dict(bias=torch.zeros(8, 9)), r'bias \(8, 9\) does not broadcast'),
        (layer(Mask()), dict(bias=torch.zeros(3, 9, 9)), r'bias \(3, 9, 9\) does not broadcast'),
        (layer(Mask()), dict(teacher_bias=torch.zeros(3, 5, 9, 9)), r'teacher_bias \(3, 5, 9, 9\)'),
        (layer(Mask(), (5, 2)), {}, 'do not make 5 heads of 2'),
        (layer(Mask()), dict(sizes=(2, 2)), 'do not make 2 heads of 5'),
    ):
        with pytest.raises(ValueError, match=message) as error:
            shd_loss(*args, **options)
        assert '\n' not in str(error.value)


def test_weights_by_tiles_are_those_of_whole_maps(in_tiles):
    from shd_vit.functional.teacher import TeacherMaps

    mask = masks()['all at once']
    _, _, q, k, v, out_proj, _, scale = layer(mask, (2, 7))
    gram, sizes = gram_matrix(out_proj), group_sizes(7, 2)
    dropped = ~mask.padding[:, None, :, None]
    for weigh in WEIGHS:
        lazy = TeacherMaps(q, k, v, None, scale, None, mask, dropped, sizes, weigh)
        whole = head_weights(attention_maps(q, k, scale, mask=mask), v, gram, sizes, weigh)
        near = 1e-3 if weigh is weigh_simplex else 1e-9
        streamed = torch.empty_like(whole)
        for sample in tiles.each_of(len(q)):
            for heads, parts in tiles.blocks(sizes, 9, 9, (mask,), 'cpu'):
                ready = lazy.weighed(out_proj, False).ready(sample, heads, parts)
                own = ready.members(heads)
                streamed[sample, own] = ready.weights[sample, own]
        assert_close(streamed, whole, rtol=near, atol=near)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['causal', 'padded left', 'packed'])
def test_tiles_through_inductor(name, dynamo, monkeypatch):
    mask = masks()[name]
    args = layer(mask, dtype=torch.float32)
    results = []
    for parted in (False, True):
        if parted:
            part(monkeypatch, *BLOCKS[2])
        for backend in ('torch', 'compile'):
            loss = shd_loss(*args, mask=mask, teacher_mask=mask, backend=backend)
            results.append((loss, *torch.autograd.grad(loss, args[:2])))
    for result in results[1:]:
        assert_close(result, results[0], rtol=2e-5, atol=1e-6)
