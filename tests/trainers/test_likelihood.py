"""Log-probs and KL with the gradient written out: against autograd, finite differences, and the memory they keep."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainers.likelihood import CACHED_ROWS, Joint, Kl, kept_bytes, reduced, token_scores

N, WIDTH, VOCABULARY = 13, 5, 17
Given = tuple[nn.Linear, Tensor, Tensor, Tensor]
DIRECTIONS: tuple[Kl, ...] = ("reference_to_policy", "policy_to_reference")


@pytest.fixture
def given() -> Given:
    """A head, the policy's and the reference's states, targets."""
    torch.manual_seed(4)
    states, ref_states = torch.randn(2, N, WIDTH, dtype=torch.double)
    head = nn.Linear(WIDTH, VOCABULARY, dtype=torch.double)
    return head, states.requires_grad_(), ref_states, torch.randint(VOCABULARY, (N,))


def dense(
    head: nn.Module, states: Tensor, ref_states: Tensor, targets: Tensor, kl: Kl = "reference_to_policy"
) -> tuple[Tensor, Tensor]:
    log_pi, log_ref = head(states).log_softmax(-1), head(ref_states).log_softmax(-1).detach()
    first, second = (log_ref, log_pi) if kl == "reference_to_policy" else (log_pi, log_ref)
    return log_pi.gather(1, targets[:, None])[:, 0], (first.exp() * (first - second)).sum(-1)


@pytest.mark.parametrize("kl", ["none", "metric", *DIRECTIONS])
def test_the_written_gradient_is_the_finite_difference(kl):
    torch.manual_seed(1)
    rows = 2 * CACHED_ROWS + 3
    logits, reference = torch.randn(2, rows, 5, dtype=torch.double)
    targets, weights = torch.arange(rows) % 5, torch.randn(2, rows, dtype=torch.double)

    def value(z: Tensor) -> Tensor:
        logp, divergence = Joint.apply(z.clone(), None if kl == "none" else reference, targets, kl)
        return (weights[0] * logp + (weights[1] * divergence if kl in DIRECTIONS else 0)).sum(-1)

    [gradient] = torch.autograd.grad(value(logits.requires_grad_()), logits)
    step = 1e-5 * torch.eye(rows * 5, dtype=torch.double).view(-1, rows, 5)
    with torch.no_grad():
        slopes = [(value(logits + move) - value(logits - move)) / 2e-5 for move in step]
    assert torch.allclose(gradient.flatten(), torch.stack(slopes), atol=1e-8)


def test_a_second_backward_pass_over_the_same_logits_is_refused(given):
    head, states, ref_states, targets = given
    found = token_scores(head, states, ref_states, targets, kl="none", rows=N)
    found.logp.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        found.logp.sum().backward()


@pytest.mark.parametrize("rows", [1, 3, 8, 12, 13, 100])
@pytest.mark.parametrize("most", [0, 20])
@pytest.mark.parametrize("kl", DIRECTIONS)
def test_values_and_gradients_are_autograds_however_many_tokens_are_kept(given, rows, most, kl):
    head, states, ref_states, targets = given
    weights = torch.randn(2, N, dtype=torch.double)
    found = token_scores(head, states, ref_states, targets, kl=kl, rows=rows, most=most)
    expected = dense(*given, kl)
    for ours, theirs in zip((found.logp, found.kl), expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-12)
    wanted = (states, *head.parameters())
    ours = torch.autograd.grad((weights[0] * found.logp + weights[1] * found.kl).sum(), wanted)
    theirs = torch.autograd.grad((weights[0] * expected[0] + weights[1] * expected[1]).sum(), wanted)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_a_kl_that_is_only_a_metric_has_no_gradient(given):
    head, states, ref_states, targets = given
    found = token_scores(head, states, ref_states, targets, kl="metric", rows=N)
    assert not found.kl.requires_grad
    assert torch.allclose(found.kl, dense(*given)[1], atol=1e-12)
    assert token_scores(head, states, ref_states, targets, kl="none", rows=N).kl is None


@pytest.mark.parametrize("kl", DIRECTIONS)
def test_the_same_states_have_a_kl_of_exactly_nought(given, kl):
    head, states, _, targets = given
    head, states = head.float(), states.detach().float()
    found = token_scores(head, states, states, targets, kl=kl, rows=N)
    assert torch.equal(found.kl, torch.zeros(N))


def test_accuracy_is_the_share_of_likeliest_targets(given):
    head, states, _, targets = given
    found = token_scores(head, states, None, targets, kl="none", rows=5, accuracy=True)
    assert torch.equal(found.correct, (head(states).argmax(-1) == targets).float())
    assert found.kl is None
    assert token_scores(head, states, None, targets, kl="none", rows=5).correct is None


@pytest.mark.parametrize(("rows", "most"), [(1, 0), (4, 0), (99, 0), (4, 40)])
def test_what_logits_reduce_to_does_not_depend_on_the_pieces(given, rows, most):
    head, states, *_ = given
    assert torch.allclose(reduced(head, states, lambda z: z.mean(-1), rows=rows, most=most), head(states).mean(-1))


def test_half_precision_logits_are_summed_in_float32(given):
    head, states, ref_states, targets = given
    head, states, ref_states = head.bfloat16(), states.detach().bfloat16().requires_grad_(), ref_states.bfloat16()
    found = token_scores(head, states, ref_states, targets, kl="reference_to_policy", rows=N)
    wide = dense(lambda x: head(x).double(), states, ref_states, targets)
    assert found.logp.dtype == found.kl.dtype == torch.float32
    assert torch.allclose(found.logp.double(), wide[0], atol=1e-5)
    assert torch.allclose(found.kl.double(), wide[1], atol=1e-5)
    [gradient] = torch.autograd.grad(found.kl.sum(), states)
    assert torch.allclose(gradient, torch.autograd.grad(wide[1].sum(), states)[0], atol=0.02)


def saved_logits(given: Given, rows: int) -> tuple[int, int]:
    """How many numbers of (n, V) tensors wait for the backward pass, and how many tokens are said to."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if tensor.dim() == 2 and tensor.shape[1] == VOCABULARY and tensor.data_ptr() != given[0].weight.data_ptr():
            seen[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = token_scores(*given, kl="reference_to_policy", rows=rows)
    return sum(seen.values()), found.kept


@pytest.mark.parametrize(("rows", "kept"), [(100, 13), (13, 13), (12, 11), (8, 8), (4, 4), (1, 1)])
def test_no_more_logits_are_kept_than_the_budget_allows_and_it_is_said_how_many(given, rows, kept):
    numbers, said = saved_logits(given, rows)
    assert said == kept <= rows
    per_token = kept_bytes(VOCABULARY, 8, kl="reference_to_policy", capped=False)
    assert numbers * 8 == said * per_token


def test_nothing_is_kept_without_a_gradient(given):
    with torch.no_grad():
        assert token_scores(*given, kl="reference_to_policy", rows=N).kept == 0


def test_ranks_with_different_tokens_call_the_head_equally_often(given):
    """ZeRO-3 gathers the head's weights from all ranks at each call, in the backward pass as well."""
    head, states, ref_states, targets = given
    calls = []
    for count in (1, 6, N):
        made = []
        handle = head.register_forward_pre_hook(lambda *_, made=made: made.append(torch.is_grad_enabled()))
        here = slice(count)
        found = token_scores(
            head, states[here], ref_states[here], targets[here], kl="reference_to_policy", rows=8, most=N
        )
        (found.logp + found.kl).sum().backward()
        handle.remove()
        calls.append(len(made))
    assert calls[0] == calls[1] == calls[2] > 2
