import pytest
import references
import torch
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from shd_vit.errors import ConfigError
from shd_vit.functional import Mask, tiles
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.pairing import uniform_pairs
from shd_vit.taps import AttentionTap, select_heads


class Model:
    """What SHDLoss.bind asks of a model's anatomy."""

    def __init__(self, role, depth, heads):
        self.role, self.depth, self.heads = role, depth, [heads] * depth
        self.stages, self.prefix_tokens = [list(range(1, depth + 1))], ('cls',)


def tap(B=2, H=2, N=5, D=4, bias=None):
    q, k, v = torch.randn(3, B, H, N, D, dtype=torch.float64).unbind(0)
    out_proj = torch.randn(3 * H, H * D, dtype=torch.float64)
    return AttentionTap(q.requires_grad_(), k.requires_grad_(), v, out_proj, 0.5, bias)


def outputs(student_heads=2, teacher_heads=4, depth=2, N=5):
    logits = torch.zeros(2, 3)
    return [
        ModelOutput(logits, {n: tap(H=heads, N=N) for n in range(1, depth + 1)}, {})
        for heads in (student_heads, teacher_heads)
    ]


def test_layer_pairs_of_the_paper():
    assert uniform_pairs(24, 48)[3] == (4, 8)
    assert uniform_pairs(12, 12) == [(n, n) for n in range(1, 13)]
    assert uniform_pairs(4, 6) == [(1, 2), (2, 3), (3, 5), (4, 6)]
    assert uniform_pairs(3, 2) == [(1, 1), (2, 2), (3, 2)]
    for student in range(1, 15):
        for teacher in range(1, 30):
            assert uniform_pairs(student, teacher)[-1] == (student, teacher)


@pytest.mark.parametrize('temperature', [1.0, 2.5])
@pytest.mark.parametrize('chunk_elements', [1, 2**20])
def test_equals_eq_11_with_alpha_from_softened_maps(temperature, chunk_elements, monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', chunk_elements)
    loss = SHDLoss(beta=0.7, temperature=temperature)
    loss.bind(Model('student', 2, 2), Model('teacher', 2, 4))
    student, teacher = outputs()
    expected = 0.0
    for layer in (1, 2):
        s, t = student.attention[layer], teacher.attention[layer]
        maps = references.softmax_maps(t.q, t.k, t.scale, temperature)
        target, _ = references.squeeze_heads(maps, t.v, t.out_proj, 2)
        expected = expected + references.attention_kl(s.q, s.k, target, s.scale, temperature)
    value = loss(student, teacher, None)
    assert_close(value, 0.7 * expected)
    leaves = [t for layer in (1, 2) for t in student.attention[layer][:2]]
    grads = [torch.autograd.grad(total, leaves) for total in (value, 0.7 * expected)]
    assert_close(*grads)


@pytest.mark.parametrize('heads', [(2, 4), (3, 9), (6, 16), (2, 2)])
def test_equals_the_literal_version_that_benchmarks_compare_with(heads):
    loss = SHDLoss(temperature=1.5)
    loss.bind(Model('student', 1, heads[0]), Model('teacher', 1, heads[1]))
    student, teacher = outputs(*heads, depth=1)
    value = loss(student, teacher, None)
    literal = references.literal_shd(student.attention[1], teacher.attention[1], 1.5)
    assert_close(value, literal)
    leaves = student.attention[1][:2]
    assert_close(*(torch.autograd.grad(total, leaves) for total in (value, literal)))


def test_backward_keeps_no_more_than_the_gradients_of_q_and_k():
    loss = SHDLoss()
    loss.bind(Model('student', 2, 2), Model('teacher', 2, 4))
    student, teacher = outputs(N=64)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(student, teacher, None)
    qk = sum(t.nbytes for tap in student.attention.values() for t in tap[:2])
    assert qk <= sum(kept.values()) <= 1.01 * qk
    value.backward()


def test_the_teacher_gets_no_gradient():
    loss = SHDLoss()
    loss.bind(Model('student', 2, 2), Model('teacher', 2, 4))
    student, teacher = outputs()
    loss(student, teacher, None).backward()
    assert all(t.grad is None for tap in teacher.attention.values() for t in tap[:4])
    assert all(tap.q.grad.abs().sum() > 0 for tap in student.attention.values())


def test_explicit_layers_are_read_and_only_those():
    loss = SHDLoss(layers=[(2, 1)])
    student_needs, teacher_needs = loss.bind(Model('student', 2, 2), Model('teacher', 2, 4))
    assert (student_needs.attention, teacher_needs.attention) == ((2,), (1,))
    student, teacher = outputs()
    loss(student, teacher, None).backward()
    assert student.attention[1].q.grad is None
    assert student.attention[2].q.grad is not None


def test_temporary_maps_do_not_grow_with_the_batch(monkeypatch):
    """One sample a chunk: no map of more than one sample is ever made."""
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', 1)
    sizes = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))
            return out

    loss = SHDLoss()
    loss.bind(Model('student', 1, 2), Model('teacher', 1, 4))
    taps = [ModelOutput(torch.zeros(8, 3), {1: tap(B=8, H=h, N=32)}, {}) for h in (2, 4)]
    with Watch():
        loss(*taps, None).backward()
    assert max(sizes) == 4 * 32 * 32  # the teacher's four maps of one sample


@pytest.mark.parametrize('chunk_elements', [1, 2**20])
def test_bias_of_the_batch_is_taken_apart_with_it(chunk_elements, monkeypatch):
    monkeypatch.setitem(tiles.CHUNK_ELEMENTS, 'cpu', chunk_elements)
    loss = SHDLoss()
    loss.bind(Model('student', 1, 2), Model('teacher', 1, 4))
    student, teacher = outputs(depth=1)
    bias_s, bias_t = (torch.randn(2, h, 5, 5, dtype=torch.float64) for h in (2, 4))
    s, t = student.attention[1]._replace(bias=bias_s), teacher.attention[1]._replace(bias=bias_t)
    value = loss(
        *(ModelOutput(o.logits, {1: tap}, {}) for o, tap in ((student, s), (teacher, t))), None
    )
    maps = references.softmax_maps(t.q, t.k, t.scale, bias=bias_t)
    target, _ = references.squeeze_heads(maps, t.v, t.out_proj, 2)
    assert_close(value, references.attention_kl(s.q, s.k, target, s.scale, bias=bias_s))


@pytest.mark.parametrize('padding', [slice(3, None), slice(0, 2)])
@pytest.mark.parametrize('is_causal', [False, True])
def test_padding_has_no_part_in_weights_maps_and_mean(padding, is_causal):
    """-inf at padded keys in both biases: the loss is that of the sequences without padding."""
    loss = SHDLoss()
    loss.bind(Model('student', 1, 2), Model('teacher', 1, 4))
    outs = outputs(depth=1)
    mask = torch.zeros(5, 5, dtype=torch.float64)
    if is_causal:
        mask.masked_fill_(~torch.ones(5, 5).tril().bool(), float('-inf'))
    keep = [i for i in range(5) if i not in range(5)[padding]]
    short_mask = mask[keep][:, keep]
    mask[:, padding] = float('-inf')

    def loss_of(bias, tokens):
        def cut(tap):
            q, k, v = (x[:, :, tokens] for x in tap[:3])
            return tap._replace(q=q, k=k, v=v, bias=bias)

        return loss(*(ModelOutput(o.logits, {1: cut(o.attention[1])}, {}) for o in outs), None)

    padded, short = loss_of(mask, list(range(5))), loss_of(short_mask, keep)
    assert_close(padded, short)
    leaves = outs[0].attention[1][:2]
    assert_close(*(torch.autograd.grad(x, leaves) for x in (padded, short)))


@pytest.mark.parametrize('mask', ['causal', 'padded', 'window'])
@pytest.mark.parametrize('strategy', ['linear', 'constant', 'simplex', 'hard', 'head_matching'])
def test_masks_of_taps_are_those_of_dense_biases(mask, strategy):
    padding = torch.tensor([[False, False, True, True, True], [True] * 5])
    mask = dict(causal=Mask(True), padded=Mask(True, padding=padding), window=Mask(window=2))[mask]
    loss = SHDLoss(strategy=strategy)
    loss.bind(Model('student', 1, 2), Model('teacher', 1, 4))
    student, teacher = (output.attention[1] for output in outputs(depth=1))
    results = []
    for taps in (
        [tap._replace(mask=mask) for tap in (student, teacher)],
        [tap._replace(bias=tap._replace(mask=mask).whole_bias()) for tap in (student, teacher)],
    ):
        pair = [ModelOutput(None, {1: tap}, {}) for tap in taps]
        if not loss.is_settled:
            loss.observe(pair[1])
            loss.settle()
        value = loss(*pair, None)
        results.append((value, *torch.autograd.grad(value, student[:2])))
    assert_close(*results)


def test_tokens_of_a_masked_tap_keep_what_they_see():
    padding = torch.tensor([[True, True, True, True, False], [True] * 5])
    whole = tap()._replace(mask=Mask(True, padding=padding, window=3))
    kept = torch.tensor([3, 0, 2])
    seen = whole.whole_bias()
    part = whole.select(kept)
    assert part.mask.is_empty
    assert torch.equal(part.bias, seen[:, :, kept][..., kept])
    assert part.bias[0, 0].tolist() == [
        [True, False, True],
        [False, True, False],
        [False, True, True],
    ]
    assert select_heads(whole, torch.tensor([1])).mask is whole.mask
    assert tap().whole_bias() is None
    bias = torch.randn(5, 5)
    both = whole._replace(bias=bias).whole_bias()
    assert torch.equal(both.isinf(), ~seen)


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(backend='gpu'), "backend='gpu' must be one of 'auto', 'torch', 'compile', 'cpp'"),
        (dict(compile=False, backend='cpp'), "compile=False is backend='torch', not 'cpp'"),
        (dict(temperature=0), 'temperature=0'),
        (dict(beta=-1), 'beta=-1'),
        (dict(beta=float('nan')), 'beta=nan'),
        (dict(layers='first'), "layers='first'"),
        (dict(layers=[1, 2]), r'layers=\[1, 2\]'),
        (dict(layers=[]), r'layers=\[\]'),
        (dict(tokens='cls'), "tokens='cls' must be one of 'all', 'shared', 'patches'"),
    ],
)
def test_bad_hyper_parameters_are_named(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        SHDLoss(**kwargs)


@pytest.mark.parametrize(
    'layers, student, teacher, message',
    [
        ('uniform', (2, 6), (2, 3), 'student layer 1 has 6 heads, teacher layer 1 has 3'),
        ([(3, 1)], (2, 3), (2, 6), 'layer 3 of the student, which has layers 1 to 2'),
        ([(1, 0)], (2, 3), (2, 6), 'layer 0 of the teacher, which has layers 1 to 2'),
    ],
)
def test_pairs_that_cannot_be_distilled_are_refused_at_the_start(layers, student, teacher, message):
    with pytest.raises(ConfigError, match=message):
        SHDLoss(layers=layers).bind(Model('student', *student), Model('teacher', *teacher))


def test_different_token_counts_name_both():
    loss = SHDLoss()
    loss.bind(Model('student', 1, 2), Model('teacher', 1, 4))
    student, _ = outputs(depth=1, N=5)
    _, teacher = outputs(depth=1, N=6)
    with pytest.raises(ConfigError, match='student layer 1 sees 5 tokens, teacher layer 1 sees 6'):
        loss(student, teacher, None)
