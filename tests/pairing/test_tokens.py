"""Which tokens are compared."""

import pytest
import references
import torch
from losses.taps import Model, attention
from torch.testing import assert_close

from shd_vit.errors import ConfigError, UnsupportedAttention
from shd_vit.losses import ModelOutput, SHDLoss
from shd_vit.pairing.tokens import align_tokens
from shd_vit.taps.tokens import Segment


def anatomy(role, *prefix, last='patches'):
    """A model with one token of each name before its last segment."""
    model = Model(role, depth=1)
    model.prefix_tokens = prefix
    model.segments = (*map(Segment, prefix), Segment(last, None))
    return model


class Unnamed(Model):
    """A model that knows how many prefix tokens it has, but not their names."""

    def __init__(self, role, count):
        super().__init__(role, depth=1)
        self.segments = Segment(None, count), Segment('patches', None)

    @property
    def prefix_tokens(self):
        raise UnsupportedAttention('unknown')

    @prefix_tokens.setter
    def prefix_tokens(self, names):
        pass


def kept(alignment, tokens=8):
    """Which tokens of a model of 8 are compared: read off queries that are their positions."""
    tap = attention(2, 1, N=tokens).attention[1]
    places = torch.arange(tokens, dtype=torch.float64).view(-1, 1).expand_as(tap.q)
    taps = (tap._replace(q=places, k=places, v=places) for _ in range(2))
    return [
        model.of(tap).k[0, 0, :, 0].int().tolist()
        for model, tap in zip((alignment.student, alignment.teacher), taps, strict=True)
    ]


@pytest.mark.parametrize(
    'tokens, student, teacher, names, kept_s, kept_t',
    [
        ('shared', 'cls dist', 'cls', ('cls',), [0, 2, 3, 4, 5, 6, 7], range(8)),
        ('shared', 'cls', 'reg1 reg2', (), range(1, 8), range(2, 8)),
        ('shared', 'cls dist', 'dist reg1 cls', ('cls', 'dist'), range(8), [2, 0, *range(3, 8)]),
        ('shared', 'cls', 'cls', ('cls',), range(8), range(8)),
        ('patches', 'cls dist', 'cls', (), range(2, 8), range(1, 8)),
        ('all', 'cls dist', 'cls dist', ('cls', 'dist'), range(8), range(8)),
    ],
)
def test_tokens_are_matched_by_name(tokens, student, teacher, names, kept_s, kept_t):
    models = anatomy('student', *student.split()), anatomy('teacher', *teacher.split())
    alignment = align_tokens(tokens, *models, 'SHDLoss')
    assert alignment.prefix == names
    assert kept(alignment) == [list(kept_s), list(kept_t)]


def test_names_that_are_not_known():
    student, teacher = Unnamed('student', 2), anatomy('teacher', 'cls')
    assert align_tokens('all', student, teacher, 'SHDLoss').prefix is None
    assert kept(align_tokens('patches', student, teacher, 'SHDLoss')) == [
        [2, 3, 4, 5, 6, 7],
        [1, 2, 3, 4, 5, 6, 7],
    ]
    with pytest.raises(UnsupportedAttention, match='unknown'):
        align_tokens('shared', student, teacher, 'SHDLoss')


@pytest.mark.parametrize('student, teacher', [(('cls', 'dist'), ('cls', 'reg1')), ((), ('cls',))])
def test_all_needs_the_same_names(student, teacher):
    with pytest.raises(ConfigError, match=r"(cls, dist|has nothing), the teacher cls.*'shared'"):
        align_tokens('all', anatomy('student', *student), anatomy('teacher', *teacher), 'SHDLoss')


def words(role):
    model = Model(role, depth=1)
    model.segments = ()
    return model


def test_segments_of_any_length_are_matched_by_name():
    """Text and image, in the other order and with another length of text in the teacher."""
    student, teacher = anatomy('student'), anatomy('teacher')
    student.segments = Segment('text', 3), Segment('image', None)
    teacher.segments = Segment('image', 5), Segment('style', 1), Segment('text', None)
    assert kept(align_tokens('shared', student, teacher, 'SHDLoss'), tokens=8) == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [6, 7, 0, 1, 2, 3, 4],
    ]


def test_words_of_language_models_are_all_of_one_kind():
    assert (
        kept(align_tokens('shared', words('student'), words('teacher'), 'SHDLoss'))
        == [list(range(8))] * 2
    )
    with pytest.raises(ConfigError, match=r"tokens='patches' .* the student has tokens of one kin"):
        align_tokens('patches', words('student'), words('teacher'), 'SHDLoss')
    with pytest.raises(ConfigError, match=r"tokens='shared' .* the student has cls, patches"):
        align_tokens('shared', anatomy('student', 'cls'), words('teacher'), 'SHDLoss')


@pytest.mark.parametrize(
    'shape', [(3, 4, 7, 7), (1, 4, 7, 7), (7, 7), (3, 1, 1, 7), (1, 1, 7, 1), (7,)]
)
@pytest.mark.parametrize('is_masked', [False, True])
def test_selected_maps_are_the_rest_of_the_map_normalised(shape, is_masked):
    bias = torch.randn(shape, dtype=torch.float64)
    if is_masked and shape[-1] > 1:
        bias[..., 4] = float('-inf')
    tap = attention(4, 1, N=7, bias=bias).attention[1]
    tokens = torch.tensor([2, 0, 3, 4, 6])
    whole = references.softmax_maps(tap.q, tap.k, tap.scale, bias=bias)
    expected = whole[..., tokens, :][..., tokens]
    part = tap.select(tokens)
    maps = references.softmax_maps(part.q, part.k, part.scale, bias=part.bias)
    assert_close(maps, expected / expected.sum(-1, keepdim=True))
    assert_close(part.v, tap.v[:, :, tokens])


@pytest.mark.parametrize('strategy', ['linear', 'head_matching'])
def test_tokens_left_out_have_no_part_and_get_no_gradient(strategy):
    """Whatever the distillation token is: neither the loss nor the order of heads looks at it."""
    loss = SHDLoss(tokens='shared', strategy=strategy, compile=False)
    loss.bind(anatomy('student', 'cls', 'dist'), anatomy('teacher', 'cls', 'reg1', 'reg2'))
    student, teacher = attention(2, 1, N=6).attention[1], attention(2, 1, N=7).attention[1]
    values = []
    for size in (1.0, 100.0):
        moved = [tap._replace(q=tap.q.detach(), k=tap.k.detach()) for tap in (student, teacher)]
        for tap, place in zip(moved, (1, slice(1, 3)), strict=True):
            for x in (tap.q, tap.k, tap.v):
                x[:, :, place] = size
        moved[0].q.requires_grad_(), moved[0].k.requires_grad_()
        s, t = (ModelOutput(None, {1: tap}, {}) for tap in moved)
        if not loss.is_settled:
            loss.observe(t)
            loss.settle()
        values.append(loss(s, t, None))
        for grad in torch.autograd.grad(values[-1], moved[0][:2]):
            assert (grad[:, :, 1] == 0).all() and (grad[:, :, [0, 2, 3]] != 0).any()
    assert_close(*values, rtol=0, atol=0)
