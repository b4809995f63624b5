"""The gradient against that of the reverse KL over all responses there are, in float64."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip('trl')

from shd_vit.hosts.transformers.minillm.objective import importance, log_mixture, surrogate
from shd_vit.hosts.transformers.minillm.scoring import (
    ADVANTAGES,
    OLD,
    RATIO,
    STATE,
    score,
)

VOCABULARY, LONGEST, END = 5, 3, 4
STATES = [s for n in range(LONGEST) for s in itertools.product(range(END), repeat=n)]
RESPONSES = [(*s, END) for s in STATES] + list(itertools.product(range(END), repeat=LONGEST))
PLAIN = SimpleNamespace(
    returns='next',
    gamma=1.0,
    length_normalisation=False,
    whiten=False,
    reward_scale=1.0,
    reward_clip=None,
    epsilon=None,
    teacher_mix=0.0,
    importance='exact',
)


def model():
    """A distribution of the next token for each beginning: (states, V) logits."""
    return torch.randn(len(STATES), VOCABULARY, dtype=torch.float64, requires_grad=True)


def log_probs(logits):
    """(responses, LONGEST) of each token of each response, 0 after its end; and the mask."""
    logs = logits.log_softmax(-1)
    rows = [
        [
            logs[STATES.index(y[:t]), y[t]] if t < len(y) else logs.new_zeros(())
            for t in range(LONGEST)
        ]
        for y in RESPONSES
    ]
    mask = [[int(t < len(y)) for t in range(LONGEST)] for y in RESPONSES]
    return torch.stack([torch.stack(row) for row in rows]), torch.tensor(mask)


def exact_gradient(student, teacher):
    """Of sum over responses of q(y) (log q(y) - log p(y)), by autograd alone."""
    ours, theirs = (log_probs(x)[0].sum(1) for x in (student, teacher.detach()))
    return torch.autograd.grad((ours.exp() * (ours - theirs)).sum(), student)[0]


def expected_gradient(student, teacher, single_step=True, long_term=True, **settings):
    """Of our loss: each response's, by how likely it is to be drawn."""
    args = SimpleNamespace(**{**vars(PLAIN), **settings})
    (ours, mask), (theirs, _) = log_probs(student), log_probs(teacher.detach())
    scores = score(ours.detach(), theirs, mask, args, torch.clone)
    drawn = log_mixture(ours, theirs, args.teacher_mix).detach().sum(1).exp()
    assert_close(drawn.sum(), drawn.new_ones(()))  # these are all responses
    loss = torch.zeros_like(ours)
    if single_step:
        q, p = student.log_softmax(-1), teacher.detach().log_softmax(-1)
        kl = (q.exp() * (q - p)).sum(-1)
        at = [[STATES.index(y[: min(t, len(y) - 1)]) for t in range(LONGEST)] for y in RESPONSES]
        loss = loss + kl[torch.tensor(at)] * scores[STATE]
    if long_term:
        loss = loss + surrogate(ours, scores[OLD], scores[ADVANTAGES], scores[RATIO], args.epsilon)
    return torch.autograd.grad(((loss * mask).sum(1) * drawn).sum(), student)[0]


def test_there_are_85_responses_and_they_are_all():
    assert len(RESPONSES) == 1 + 4 + 16 + 64 == len(set(RESPONSES))


@pytest.mark.parametrize('mix', [0.0, 0.2, 0.9])
def test_the_expected_gradient_is_that_of_the_sequence_level_reverse_kl(mix):
    student, teacher = model(), model()
    found = expected_gradient(student, teacher, teacher_mix=mix)
    assert_close(found, exact_gradient(student, teacher), rtol=1e-10, atol=1e-12)


def test_the_policy_gradient_alone_has_it_too_with_rewards_of_its_own():
    """REINFORCE: the exact expectation over the token itself is estimated as well."""
    student, teacher = model(), model()
    for mix in (0.0, 0.3):
        found = expected_gradient(
            student, teacher, single_step=False, returns='own', teacher_mix=mix
        )
        assert_close(found, exact_gradient(student, teacher), rtol=1e-10, atol=1e-12)


def test_the_authors_returns_count_the_single_step_twice():
    student, teacher = model(), model()
    both = expected_gradient(student, teacher, returns='own')
    single = expected_gradient(student, teacher, long_term=False)
    assert_close(both - single, exact_gradient(student, teacher), rtol=1e-10, atol=1e-12)
    assert single.norm() > 0.1 * both.norm()


def test_weights_of_the_token_alone_are_exact_for_one_token_and_biased_beyond():
    """What 'token' leaves out is what was drawn before and after: at the first token, nothing
    was drawn before, and the single-step term there is exact."""
    student, teacher = model(), model()
    exact, settings = exact_gradient(student, teacher), dict(teacher_mix=0.5, importance='token')
    token = expected_gradient(student, teacher, **settings)
    assert not torch.allclose(token, exact, rtol=0.05)
    single = expected_gradient(student, teacher, long_term=False, **settings)
    plain = expected_gradient(student, teacher, long_term=False)
    assert_close(single[0], plain[0], rtol=1e-10, atol=1e-12)
    weighed = expected_gradient(student, teacher, single_step=False, gamma=0.0, **settings)
    assert weighed[0].norm() > 0


def test_exact_weights_are_products_of_what_was_drawn():
    """Up to the token for its reward; before it for the single step, which is over the token."""
    student, mixture = -torch.rand(2, 4).double(), -torch.rand(2, 4).double()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    found = importance(student, mixture, mask, 'exact')
    for row, count in enumerate((4, 2)):
        product = 1.0
        for t in range(count):
            assert float(found.state[row, t]) == pytest.approx(product)
            product *= float((student - mixture)[row, t].exp())
            assert float(found.reward[row, t]) == pytest.approx(product)
            assert float(found.ratio[row, t]) == 1


def test_the_clipped_surrogate_is_ppos():
    """Each case of arXiv 1707.06347, Figure 1, and its gradient."""
    cases = [  # ratio, advantage, loss, whether it learns
        (1.5, 2.0, -2.4, False),
        (1.5, -2.0, 3.0, True),
        (0.5, 2.0, -1.0, True),
        (0.5, -2.0, 1.6, False),
        (1.1, 2.0, -2.2, True),
        (0.9, -2.0, 1.8, True),
    ]
    for ratio, advantage, loss, learns in cases:
        now = torch.tensor([[ratio]]).log().requires_grad_()
        old, one = torch.zeros(1, 1), torch.ones(1, 1)
        found = surrogate(now, old, one * advantage, one, 0.2)
        assert found.item() == pytest.approx(loss, rel=1e-6)
        found.sum().backward()
        assert (now.grad.abs().sum() > 0) == learns
        # Weights of importance are clipped with the ratio.
        weighed = surrogate(torch.zeros(1, 1), old, one * advantage, one * ratio, 0.2)
        assert weighed.item() == pytest.approx(loss, rel=1e-6)


def test_rewards_are_scaled_and_then_clipped():
    (ours, mask), (theirs, _) = log_probs(model().detach()), log_probs(model().detach())
    args = SimpleNamespace(**{**vars(PLAIN), 'reward_scale': 0.5, 'reward_clip': 1.0})
    found = score(ours, theirs, mask, args, torch.clone)[ADVANTAGES]
    for row, y in enumerate(RESPONSES):
        for t in range(len(y)):
            rewards = [float(theirs[row, s] - ours[row, s]) / 0.5 for s in range(t + 1, len(y))]
            assert float(found[row, t]) == pytest.approx(sum(max(-1, min(1, r)) for r in rewards))
