import pytest
import references
import torch
from losses.taps import Model, attention, bound, leaves
from torch.testing import assert_close

from shd_vit.errors import ConfigError
from shd_vit.losses import AttentionTransferLoss, ModelOutput


def reference(student, teacher, temperature=1.0, rows=None):
    """KL of the two means over heads, one row at a time."""
    maps = [
        sum(references.softmax_maps(tap.q, tap.k, tap.scale, temperature, tap.bias).unbind(1))
        / tap.q.shape[1]
        for tap in (student, teacher)
    ]
    total, count = 0.0, 0
    for b in range(len(maps[0])):
        for i in range(maps[0].shape[1]):
            if rows is None or rows[b][i]:
                count += 1
                for s, t in zip(maps[0][b, i], maps[1][b, i], strict=True):
                    if t > 0:
                        total = total + t.detach() * (t.detach().log() - s.log())
    return total / count


def one_layer(tap):
    return ModelOutput(None, {1: tap}, {})


@pytest.mark.parametrize('heads', [(2, 4), (3, 2), (1, 1)])
@pytest.mark.parametrize('layers, pairs', [('uniform', [(1, 2), (2, 3)]), ('last', [(2, 3)])])
def test_equals_the_kl_of_the_means(heads, layers, pairs):
    loss = AttentionTransferLoss(weight=0.7, temperature=1.5, layers=layers)
    needs = loss.bind(Model('student', 2), Model('teacher', 3))
    assert [need.attention for need in needs] == [tuple(p) for p in zip(*pairs, strict=True)]
    assert [need.tokens for need in needs] == [(), ()]
    student, teacher = attention(heads[0], 2), attention(heads[1], 3)
    value = loss(student, teacher, None)
    expected = 0.7 * sum(
        reference(student.attention[s], teacher.attention[t], 1.5) for s, t in pairs
    )
    assert_close(value, expected)
    learning = [x for s, _ in pairs for x in student.attention[s][:2]]
    assert_close(*(torch.autograd.grad(v, learning) for v in (value, expected)))


def test_equal_models_cost_nothing_and_so_does_another_order_of_heads():
    loss = bound(AttentionTransferLoss(), student_depth=1, teacher_depth=1)
    tap = attention(3, 1).attention[1]
    turned = tap._replace(q=tap.q.roll(1, 1), k=tap.k.roll(1, 1))
    for teacher in (tap, turned):
        assert_close(loss(one_layer(tap), one_layer(teacher), None).item(), 0.0)


def test_the_teacher_gets_no_gradient():
    loss = bound(AttentionTransferLoss())
    student, teacher = attention(2), attention(4)
    loss(student, teacher, None).backward()
    assert all(x.grad is None for x in leaves(teacher))
    assert all(x.grad.abs().sum() > 0 for x in leaves(student))


@pytest.mark.parametrize('padding', [slice(3, None), slice(0, 2)])
@pytest.mark.parametrize('is_causal', [False, True])
def test_padding_has_no_part(padding, is_causal):
    """-inf at padded keys in both biases: the loss is that of the sequences without padding."""
    loss = bound(AttentionTransferLoss(), student_depth=1, teacher_depth=1)
    outputs = attention(2, 1), attention(4, 1)
    mask = torch.zeros(5, 5, dtype=torch.float64)
    if is_causal:
        mask.masked_fill_(~torch.ones(5, 5).tril().bool(), float('-inf'))
    keep = [i for i in range(5) if i not in range(5)[padding]]
    short_mask = mask[keep][:, keep]
    mask[:, padding] = float('-inf')

    def loss_of(bias, tokens):
        def cut(tap):
            q, k, v = (x[:, :, tokens] for x in tap[:3])
            return one_layer(tap._replace(q=q, k=k, v=v, bias=bias))

        return loss(*(cut(output.attention[1]) for output in outputs), None)

    padded, short = loss_of(mask, list(range(5))), loss_of(short_mask, keep)
    assert_close(padded, short)
    learning = leaves(outputs[0])
    assert_close(*(torch.autograd.grad(x, learning) for x in (padded, short)))


def test_a_row_counts_if_both_models_see_a_key():
    """The student's sample 0 sees nothing at all, the teacher's sample 1 not from query 2."""
    loss = bound(AttentionTransferLoss(), student_depth=1, teacher_depth=1)
    bias_s, bias_t = torch.zeros(2, 3, 1, 5, 5, dtype=torch.float64).unbind(0)
    bias_s[0], bias_t[1, :, 2] = float('-inf'), float('-inf')
    student, teacher = (
        attention(heads, 1).attention[1]._replace(bias=bias)
        for heads, bias in ((2, bias_s), (4, bias_t))
    )
    rows = [[False] * 5, [True, True, False, True, True], [True] * 5]
    value = loss(one_layer(student), one_layer(teacher), None)
    expected = reference(student, teacher, rows=rows)
    assert_close(value, expected)
    grads = torch.autograd.grad(value, student[:2])
    assert all(grad.isfinite().all() and (grad[0] == 0).all() for grad in grads)


def test_windows_repeat_their_bias_and_it_learns():
    """A bias (W, H, N, N) for a batch of B' W windows, image by image."""
    loss = bound(AttentionTransferLoss(), student_depth=1, teacher_depth=1)
    bias = torch.randn(2, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    student, teacher = (attention(heads, 1, B=4).attention[1] for heads in (2, 4))
    value = loss(one_layer(student._replace(bias=bias)), one_layer(teacher), None)
    expected = reference(student._replace(bias=bias.repeat(2, 1, 1, 1)), teacher)
    assert_close(value, expected)
    assert_close(*(torch.autograd.grad(x, bias) for x in (value, expected)))


def test_float32_under_autocast_and_finite_with_wild_maps():
    loss = bound(AttentionTransferLoss(temperature=0.1), student_depth=1, teacher_depth=1)
    for dtype in (torch.float32, torch.bfloat16):
        student, teacher = (
            attention(heads, 1, sharpness=1e3).attention[1]._replace(bias=None) for heads in (2, 4)
        )
        student, teacher = (
            tap._replace(**{name: getattr(tap, name).detach().to(dtype) for name in 'qk'})
            for tap in (student, teacher)
        )
        student.q.requires_grad_(), student.k.requires_grad_()
        expected = loss(one_layer(student), one_layer(teacher), None)
        with torch.autocast('cpu', torch.bfloat16):
            value = loss(one_layer(student), one_layer(teacher), None)
        assert value.dtype == torch.float32 and value.isfinite()
        assert_close(value, expected, rtol=0, atol=0)
        assert all(g.isfinite().all() for g in torch.autograd.grad(value, student[:2]))


@pytest.mark.parametrize('temperature', [0, -1.0, float('nan'), float('inf')])
def test_bad_temperatures_are_named(temperature):
    with pytest.raises(ConfigError, match=f'AttentionTransferLoss.temperature={temperature}'):
        AttentionTransferLoss(temperature=temperature)


def test_different_token_counts_name_both():
    loss = bound(AttentionTransferLoss())
    with pytest.raises(ConfigError, match='student layer 1 sees 5 tokens, teacher layer 1 sees 6'):
        loss(attention(2), attention(4, N=6), None)
