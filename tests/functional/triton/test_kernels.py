"""The Triton kernels against float64 autograd through literal maps.

Without a GPU they run in Triton's interpreter, which is slow: a few programs, small tiles.
"""

import pytest
import torch
from functional.test_streaming import layer, literal, masks
from torch.testing import assert_close

from shd_vit.functional import Mask, shd_loss, weigh_constant, weigh_simplex
from shd_vit.functional.triton import choice

pytest.importorskip('triton')
from shd_vit.functional.triton import loss, sides

pytestmark = [
    pytest.mark.filterwarnings(f'ignore:{what} encountered:RuntimeWarning')
    for what in ('divide by zero', 'invalid value')  # of rows and keys that are left out
]
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
SMALL = sides.Blocks(16, 16) if DEVICE == 'cuda' else sides.Blocks(8, 8)


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """They are what is tested, whatever a comparison on the way would say."""
    monkeypatch.setattr(choice, '_is_examining', True)


@pytest.fixture
def small_tiles(monkeypatch):
    for module in (loss, sides):
        monkeypatch.setattr(module, 'blocks_of', lambda *tensors, size=1: SMALL)
        monkeypatch.setattr(module, 'WHOLE', sides.WHOLE._replace(own=SMALL.own))
    monkeypatch.setattr(sides, 'WHOLE_WIDTHS', (16, 32, 64))


def moved(args, dtype=torch.float32):
    """The same numbers on the device, in a type of less precision; the first two are leaves."""
    args = [x.detach().to(DEVICE, dtype) if torch.is_tensor(x) else x for x in args]
    return [x.requires_grad_() if place < 2 else x for place, x in enumerate(args)]


def mask_there(mask):
    return mask._replace(
        **{n: t.to(DEVICE) for n in ('padding', 'documents') if (t := getattr(mask, n)) is not None}
    )


ALL = Mask()


def check(args, mask=ALL, dtype=torch.float32, near=1e-5, T=1.5, **options):
    """Loss and gradients are the literal ones, of the same rounded numbers."""
    here = [x.detach().to(dtype).double() if torch.is_tensor(x) else x for x in args]
    leaves = [x.requires_grad_() for x in here[:2]]
    expected = literal(here, mask, T=T, **options)
    there = moved(args, dtype)
    for name in ('bias', 'teacher_bias'):
        if (bias := options.get(name)) is not None:
            options[name] = bias.to(DEVICE, dtype if bias.is_floating_point() else None)
    own = mask_there(mask)
    found = shd_loss(*there, T, mask=own, teacher_mask=own, backend='triton', **options)
    assert found.dtype == torch.float32
    assert_close(found.cpu().double(), expected, rtol=near, atol=near)
    gradients = torch.autograd.grad(3 * found, there[:2])
    wanted = torch.autograd.grad(3 * expected, leaves)
    for gradient, exact in zip(gradients, wanted, strict=True):
        assert gradient.dtype == dtype
        assert (gradient.cpu().double() - exact).norm() <= 10 * near * exact.norm() + 1e-9


# On a GPU all of them; in the interpreter one of each kind, where not slow.
QUICK = {'none': 'kl', 'after a padded prefix': 'mse', 'all at once': 'kl'}


@pytest.mark.parametrize(
    'name, distance',
    [
        pytest.param(n, d, marks=() if QUICK.get(n) == d else pytest.mark.slow)
        for n in masks()
        for d in ('kl', 'mse')
    ],
)
def test_masks(name, distance, small_tiles):
    mask = masks()[name]
    check(layer(mask, (1, 2)), mask, distance=distance)


@pytest.mark.parametrize(
    'heads, N',
    [
        ((1, 1), 1),
        pytest.param((3, 3), 9, marks=pytest.mark.slow),
        pytest.param((1, 6), 17, marks=pytest.mark.slow),
        pytest.param((3, 7), 8, marks=pytest.mark.slow),
    ],
)
def test_groups_and_lengths(heads, N, small_tiles):
    check(layer(Mask(), heads, B=1, N=N))


@pytest.mark.parametrize(
    'weigh', [weigh_constant, pytest.param(weigh_simplex, marks=pytest.mark.slow)]
)
def test_strategies(weigh, small_tiles):
    near = 2e-3 if weigh is weigh_simplex else 1e-5
    check(layer(Mask(), (2, 5), B=1), weigh=weigh, near=near)


def test_values_that_are_not_needed(small_tiles):
    args = layer(Mask(), (1, 2), B=1)
    there = moved(args)
    options = dict(weigh=weigh_constant, backend='triton')
    assert_close(
        shd_loss(*there[:4], None, None, *there[6:], **options), shd_loss(*there, **options)
    )


@pytest.mark.parametrize(
    'shape',
    [
        (2, 9, 9),
        pytest.param((9, 9), marks=pytest.mark.slow),
        pytest.param((2, 5, 1, 9), marks=pytest.mark.slow),
        pytest.param((5, 9, 9), marks=pytest.mark.slow),
    ],
)
def test_additive_biases_beside_a_mask(shape, small_tiles):
    mask = Mask(is_causal=True)
    teacher_bias = torch.randn(shape, dtype=torch.float64)
    heads = (2, 5) if 5 in shape else (1, 2)
    own = tuple(heads[0] if n == heads[1] else n for n in shape[:-2]) + shape[-2:]
    check(layer(mask, heads), mask, bias=torch.randn(own).double(), teacher_bias=teacher_bias)


def test_windows_repeat_and_their_masks_hide_keys(small_tiles):
    """A batch of two images of two windows; some keys at -inf, in another type bool."""
    args = layer(Mask(), (1, 2), B=4, N=5)
    hidden = torch.rand(2, 1, 5, 5) < 0.3
    hidden[:, :, range(5), range(5)] = False
    bias = torch.zeros(2, 1, 5, 5).double().masked_fill(hidden, float('-inf'))
    there = moved(args)
    losses = [
        shd_loss(*there, bias=b.to(DEVICE), teacher_bias=b.to(DEVICE), backend=backend)
        for b, backend in ((bias.float(), 'torch'), (bias.float(), 'triton'), (~hidden, 'triton'))
    ]
    for own in losses[1:]:
        assert_close(own, losses[0])
        gradients = (torch.autograd.grad(x, there[:2], retain_graph=True) for x in (own, losses[0]))
        assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_grouped_key_heads_and_strided_projections(small_tiles):
    """Views of one projection, as models make them; two query heads a key head."""
    qkv = torch.randn(2, 6, 3, 2, 4, device=DEVICE)
    q, k, _ = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    args = moved(layer(Mask(), (2, 4), N=6, D=4))
    few = k[:, :1].detach().requires_grad_()
    q = q.detach().requires_grad_()
    assert not q.is_contiguous()
    results = []
    for backend in ('torch', 'triton'):
        loss = shd_loss(q, few.repeat_interleave(2, dim=1), *args[2:], backend=backend)
        results.append((loss, *torch.autograd.grad(loss, (q, few))))
    assert_close(results[1], results[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    'low', [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]
)
def test_half_precision_is_summed_in_float32(low, small_tiles):
    near = 2e-3 if low == torch.float16 else 1e-2
    check(layer(Mask(is_causal=True), (1, 2), B=1, N=12), Mask(is_causal=True), low, near)


def test_gradients_do_not_underflow_in_float16(small_tiles):
    """The scale of a loss comes before they are rounded: its inverse after gives the same."""
    args = moved(layer(Mask(), (1, 2), B=1), torch.float16)
    loss = shd_loss(*args, backend='triton')
    plain, scaled = (torch.autograd.grad(f * loss, args[:2], retain_graph=True) for f in (1, 2**10))
    for one, other in zip(plain, scaled, strict=True):
        assert other.isfinite().all()
        assert_close(one.float(), other.float() / 2**10, rtol=2e-3, atol=1e-7)


@pytest.fixture
def launched(monkeypatch):
    """Names of the kernels that have run."""
    names = []

    def launch(kernel, *args, **constants):
        names.append(kernel.fn.__name__)
        sides_launch(kernel, *args, **constants)

    sides_launch = sides.launch
    for module in (loss, sides):
        monkeypatch.setattr(module, 'launch', launch)
    return names


LOW = [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)]


@pytest.mark.parametrize('dtype', LOW)
@pytest.mark.parametrize(
    'heads, sizes',
    [
        ((1, 2), dict(N=1, D=4)),
        ((3, 5), dict(N=19, D=16)),
        ((2, 2), dict(N=8, D=5)),
        ((1, 2), dict(N=33, D=30)),
        pytest.param((1, 2), dict(N=197, D=63), marks=pytest.mark.slow),
        pytest.param((2, 3), dict(N=256, D=17), marks=pytest.mark.slow),
    ],
)
def test_short_maps_are_held_whole(heads, sizes, dtype, small_tiles, launched):
    check(layer(Mask(), heads, B=2, **sizes), dtype=dtype, near=2e-3 if dtype == LOW[0] else 1e-2)
    expected = ['weights_of_pairs'] if heads[1] > heads[0] else []
    expected += ['loss_and_gradients'] * (2 if heads == (3, 5) or heads == (2, 3) else 1)
    assert launched == expected


def test_short_maps_of_a_constant_merging_and_of_equal_heads(small_tiles, launched):
    there = moved(layer(Mask(), (2, 3), B=1), LOW[0])
    options = dict(weigh=weigh_constant)
    found = shd_loss(*there[:4], None, None, *there[6:], backend='triton', **options)
    assert_close(found, shd_loss(*there, backend='torch', **options), rtol=2e-3, atol=2e-3)
    args = layer(Mask(), (1, 2), B=2)
    args[2], args[3] = (x[:, :1].repeat(1, 2, 1, 1) for x in args[2:4])
    check(args, dtype=LOW[0], near=2e-3)
    assert set(launched) == {'loss_and_gradients', 'weights_of_pairs'}


@pytest.mark.parametrize(
    'shape, mask, dtype, options',
    [
        (dict(), Mask(), torch.float32, {}),
        (dict(D=70), Mask(), LOW[0], {}),
        (dict(), Mask(is_causal=True), LOW[0], {}),
        (dict(), Mask(), LOW[0], dict(distance='mse')),
        (dict(), Mask(), LOW[0], dict(teacher_bias=torch.randn(9, 9).double())),
    ],
)
def test_others_are_tiles(shape, mask, dtype, options, small_tiles, launched):
    near = 1e-5 if dtype == torch.float32 else 4e-3
    check(layer(mask, (1, 2), B=1, **shape), mask, dtype, near, **options)
    assert 'loss_of_rows' in launched and 'loss_and_gradients' not in launched


def test_maps_of_more_keys_than_a_program_holds_are_tiles():
    of = torch.empty(1, 1, 1, 64, dtype=torch.bfloat16)
    assert sides.are_short(256, 256, of) and not sides.are_short(257, 257, of)
    assert not sides.are_short(100, 120, of)  # a prefix
    assert not sides.are_short(100, 100, of, of[..., :32])


@pytest.mark.parametrize('capability, holds', [((8, 0), False), ((9, 0), True), ((12, 0), False)])
def test_cards_whose_registers_hold_no_rows_make_tiles(capability, holds, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda device: capability)
    assert sides.holds_rows.__wrapped__(torch.device('cuda')) is holds


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
@pytest.mark.parametrize('place', range(5))
def test_what_is_no_number_shows(place, dtype, small_tiles):
    args = moved(layer(Mask(), (1, 2), B=1, N=3), dtype)
    with torch.no_grad():
        args[place][0, 0, 1, 2] = float('nan')
    assert shd_loss(*args, backend='triton').isnan()


# What no test can see is not tested: the checks above are turned on kernels that are wrong.


@pytest.fixture
def poisoned():
    """Memory that nobody has written is NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    'name, dtype',
    [
        *((n, torch.float32) for n in ('row_sums', 'head_outputs', 'loss_of_rows')),
        *(('gradient_of_keys', torch.float32), ('pair_sums', torch.float16)),
        *((n, torch.float16) for n in ('weights_of_pairs', 'loss_and_gradients')),
    ],
)
def test_a_program_that_is_left_out_is_found(name, dtype, small_tiles, poisoned, monkeypatch):
    def launch(kernel, programs, *args, **constants):
        last = kernel.fn.__name__ == name
        sides_launch(kernel, programs - last, *args, **constants)

    sides_launch = sides.launch
    for module in (loss, sides):
        monkeypatch.setattr(module, 'launch', launch)
    mask = Mask(is_causal=name == 'pair_sums')
    with pytest.raises(AssertionError):
        check(layer(mask, (1, 2), B=1), mask, dtype, 1e-5 if dtype == torch.float32 else 2e-3)


@pytest.mark.skipif(DEVICE == 'cuda', reason='compiled kernels cannot be changed')
@pytest.mark.parametrize('name', ['keys_seen', 'queries_seen'])
@pytest.mark.parametrize('end', [0, 1])
def test_a_tile_that_is_left_out_is_found(name, end, small_tiles, monkeypatch):
    def fewer(*args):
        start, stop = bounds(*args)
        return (start, stop - SMALL.other) if end else (start + SMALL.other, stop)

    bounds = getattr(loss.kernels, name)
    for module in (loss.kernels, loss.weighing):
        monkeypatch.setattr(module, name, fewer, raising=False)
    with pytest.raises(AssertionError):
        check(layer(Mask(), (1, 2), B=1))
