"""Trusted values: slow float64 loops, written from the equations of arXiv 2502.07436."""

import torch


def softmax_maps(query, key, scale, temperature=1.0, bias=None):
    """Eq. 10, one row at a time."""
    B, H, N, _ = query.shape
    query, key = query.double(), key.double()
    if bias is not None:
        bias = bias.double().expand(B, H, N, N)
    maps = torch.empty(B, H, N, N, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                logits = torch.stack([(query[b, h, i] * key[b, h, j]).sum() for j in range(N)])
                logits = logits * scale
                if bias is not None:
                    logits = logits + bias[b, h, i]
                weights = (logits / temperature - (logits / temperature).max()).exp()
                maps[b, h, i] = weights / weights.sum()
    return maps


def merge_error(alpha, a1, a2, x1, x2):
    """Eq. 6: what is lost when two heads share the map alpha A_1 + (1 - alpha) A_2."""
    merged = alpha * a1 + (1 - alpha) * a2
    return ((merged @ (x1 + x2) - (a1 @ x1 + a2 @ x2)) ** 2).sum()


def best_alpha(a1, a2, x1, x2):
    """The minimum of Eq. 6, which is a parabola in alpha, from three of its values."""
    e0, eh, e1 = (merge_error(alpha, a1, a2, x1, x2) for alpha in (0.0, 0.5, 1.0))
    curvature = 2 * (e0 - 2 * eh + e1)
    slope = 4 * eh - 3 * e0 - e1
    return -slope / (2 * curvature)


def squeeze_heads(maps, value, out_proj, num_heads):
    """Progressive merging, forming every X_i = V_i W_i^O. Returns maps and raw alphas by pass."""
    B, heads, _, D = value.shape
    maps, value, out_proj = maps.double(), value.double(), out_proj.double()
    results, alphas = [], []
    for b in range(B):
        a = [maps[b, h] for h in range(heads)]
        x = [value[b, h] @ out_proj[:, h * D : (h + 1) * D].T for h in range(heads)]
        passes = []
        while len(a) > num_heads:
            merges = min(len(a) // 2, len(a) - num_heads)
            next_a, next_x, raws = [], [], []
            for i in range(merges):
                pair = a[2 * i], a[2 * i + 1], x[2 * i], x[2 * i + 1]
                raw = best_alpha(*pair)
                alpha = min(max(raw.item(), 0.0), 1.0)
                raws.append(raw)
                next_a.append(alpha * pair[0] + (1 - alpha) * pair[1])
                next_x.append(pair[2] + pair[3])
            a, x = next_a + a[2 * merges :], next_x + x[2 * merges :]
            passes.append(torch.stack(raws))
        results.append(torch.stack(a))
        alphas.append(passes)
    return torch.stack(results), [torch.stack(p) for p in zip(*alphas, strict=True)]


def attention_kl(query, key, target, scale, temperature=1.0, bias=None):
    """Eq. 11 for one layer: sum over heads, mean over batch and query rows."""
    student = softmax_maps(query, key, scale, temperature, bias)
    B, H, N, _ = student.shape
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                for j in range(N):
                    t = target[b, h, i, j].double()
                    if t > 0:
                        total = total + t * (t.log() - student[b, h, i, j].log())
    return total / (B * N)


def attention_mse(query, key, target, scale, temperature=1.0, bias=None, counted=None):
    """Table 10: squared error, summed over heads and keys, mean over batch and counted rows."""
    student = softmax_maps(query, key, scale, temperature, bias)
    B, H, N, _ = student.shape
    counted = range(N) if counted is None else counted
    total = 0.0
    for b in range(B):
        for h in range(H):
            for i in counted:
                for j in range(N):
                    total = total + (student[b, h, i, j] - target[b, h, i, j].double()) ** 2
    return total / (B * len(counted))


def nkd(student_logits, teacher_logits, labels, gamma, temperature):
    """NKD, one sample and class at a time (Eqs. 4 to 6 of arXiv 2303.13005)."""
    total = 0.0
    for s, t, y in zip(student_logits.double(), teacher_logits.double(), labels, strict=True):
        ps, pt = s.exp() / s.exp().sum(), t.exp() / t.exp().sum()
        total = total - pt[y] * ps[y].log()
        others = [c for c in range(len(s)) if c != y]
        es, et = (s[others] / temperature).exp(), (t[others] / temperature).exp()
        for a, b in zip(es / es.sum(), et / et.sum(), strict=True):
            total = total - gamma * temperature**2 * b * a.log()
    return total / len(labels)


def literal_shd(student, teacher, temperature=1.0):
    """SHD of one layer as the paper writes it, in torch's own ops, with X_i = V_i W_i^O formed.

    The yardstick of tools/benchmark.py: autograd keeps whatever it likes. (Eq. 7's N is mended as
    in the package.) Takes two attention taps without bias.
    """

    def maps_of(tap):
        return ((tap.q @ tap.k.transpose(-2, -1) * tap.scale) / temperature).softmax(-1)

    with torch.no_grad():
        heads = teacher.v.shape[1]
        weights = teacher.out_proj.chunk(heads, dim=1)
        a = list(maps_of(teacher).unbind(1))
        x = [teacher.v[:, h] @ weights[h].T for h in range(heads)]
        while len(a) > student.q.shape[1]:
            merges = min(len(a) // 2, len(a) - student.q.shape[1])
            next_a, next_x = [], []
            for i in range(0, 2 * merges, 2):
                total = x[i] + x[i + 1]
                m = a[i] @ total - a[i + 1] @ total
                n = a[i + 1] @ x[i] - a[i] @ x[i]
                alpha = -(m * n).sum((-2, -1)) / (m**2).sum((-2, -1))
                alpha = alpha.clamp(0, 1)[:, None, None]
                next_a.append(alpha * a[i] + (1 - alpha) * a[i + 1])
                next_x.append(total)
            a, x = next_a + a[2 * merges :], next_x + x[2 * merges :]
        target = torch.stack(a, dim=1)
    ratio = target.clamp(min=torch.finfo(target.dtype).tiny).log() - maps_of(student).log()
    return (target * ratio).sum((1, 3)).mean()
