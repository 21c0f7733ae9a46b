"""Every loss in NumPy and float64, written from its formula: `ref_NAME(student, teacher, **knobs)` gives loss_N."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp


def log_softmax(z):
    return z - logsumexp(z, axis=-1, keepdims=True)


def kl_rows(p, q):
    return (np.exp(p) * (p - q)).sum(-1)


def ref_kl(s, t, temperature):
    return temperature**2 * kl_rows(log_softmax(t / temperature), log_softmax(s / temperature))


def ref_bernoulli_kl(s, t, temperature):
    p, q = (1 / (1 + np.exp(-x / temperature)) for x in (t, s))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    return temperature**2 * divergence.mean(1)


def ref_reverse_kl(s, t, temperature):
    return ref_kl(t, s, temperature)


def ref_js(s, t, temperature, beta):
    p, q = np.exp(log_softmax(t / temperature)), np.exp(log_softmax(s / temperature))
    m = beta * p + (1 - beta) * q
    jsd = beta * (p * np.log(p / m)).sum(-1) + (1 - beta) * (q * np.log(q / m)).sum(-1)
    return temperature**2 * jsd / (4 * beta * (1 - beta))


def ref_skew_kl(s, t, temperature, alpha):
    p, q = np.exp(log_softmax(t / temperature)), np.exp(log_softmax(s / temperature))
    return temperature**2 * (p * np.log(p / (alpha * p + (1 - alpha) * q))).sum(-1)


def ref_uld(s, t, temperature):
    p, q = (-np.sort(-np.exp(log_softmax(x / temperature)), axis=-1) for x in (t, s))
    width = max(p.shape[1], q.shape[1])
    p, q = (np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in (p, q))
    return temperature**2 * np.abs(p - q).sum(-1)


def ref_mse(s, t):
    return ((s - t) ** 2).mean(-1)


def ref_dkd(s, t, temperature, labels, beta, alpha=1.0):
    out = []
    for row_s, row_t, y in zip(s, t, labels, strict=True):
        q, p = np.exp(log_softmax(row_s / temperature)), np.exp(log_softmax(row_t / temperature))
        if y < 0:
            out.append((p * np.log(p / q)).sum())
            continue
        target = p[y] * np.log(p[y] / q[y]) + (1 - p[y]) * np.log((1 - p[y]) / (1 - q[y]))
        rest_p, rest_q = np.delete(p, y), np.delete(q, y)
        rest_p, rest_q = rest_p / rest_p.sum(), rest_q / rest_q.sum()
        out.append(alpha * target + beta * (rest_p * np.log(rest_p / rest_q)).sum())
    return temperature**2 * np.array(out)


def ref_dist(s, t, temperature, beta, gamma):
    q, p = np.exp(log_softmax(s / temperature)), np.exp(log_softmax(t / temperature))
    rows = np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    columns = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    return temperature**2 * (beta * rows + gamma * columns)


def ref_hint(s, t):
    return ((s - t) ** 2).reshape(len(s), -1).mean(-1)


def halved(x):
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5))


def ref_attention(s, t):
    a = (halved(s) ** 2).mean(1).reshape(len(s), -1)
    b = (t**2).mean(1).reshape(len(t), -1)
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return ((a - b) ** 2).mean(1)


def ref_attention_matrix(s, t):
    return ((s.mean(1) - t.mean(1)) ** 2).mean((1, 2))


def ref_nst(s, t):
    a, b = (x.reshape(*x.shape[:2], -1) for x in (halved(s), t))
    a, b = (x / np.linalg.norm(x, axis=2, keepdims=True) for x in (a, b))

    def kernel(x, y):
        return np.array(
            [np.mean([[(u @ v) ** 2 for u in i] for v in j]) for i, j in zip(x, y, strict=True)]
        )

    return kernel(b, b) + kernel(a, a) - 2 * kernel(a, b)


def ref_fsp(s, t):
    def flow(pair):
        return np.einsum("bihw,bjhw->bij", halved(pair[0]), pair[1]) / 4

    return ((flow(s) - flow(t)) ** 2).mean((1, 2))


def ref_vid(s, t, raw_variance):
    variance = (np.log1p(np.exp(raw_variance)) + 1e-5)[None, :, None, None]
    return (0.5 * ((s - t) ** 2 / variance + np.log(variance))).mean((1, 2, 3))


def ref_cosine(s, t, mean, std):
    t = (t - mean[:, None, None]) / std[:, None, None]
    cos = (s * t).sum(1) / np.sqrt((s**2).sum(1) * (t**2).sum(1))
    return (1 - cos).mean((1, 2))


def huber_of(a, delta=1.0):
    return np.where(np.abs(a) < delta, a**2 / 2, delta * (np.abs(a) - delta / 2))


def ref_smooth_l1(s, t, mean, std):
    return huber_of(s - (t - mean[:, None, None]) / std[:, None, None]).mean((1, 2, 3))


def ref_cosine_smooth_l1(s, t, share):
    cos = (s * t).sum(1) / np.sqrt((s**2).sum(1) * (t**2).sum(1))
    return (share * (1 - cos) + (1 - share) * huber_of(s - t).mean(1)).mean((1, 2))


def ref_similarity(s, t):
    def gram(x):
        g = x.reshape(len(x), -1) @ x.reshape(len(x), -1).T
        return g / np.linalg.norm(g, axis=1, keepdims=True)

    return ((gram(s) - gram(t)) ** 2).sum(1) / len(s)


def ref_rkd_distance(s, t):
    def relative(x):
        x = x.reshape(len(x), -1)
        d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
        return d / d[d > 0].mean()

    return huber_of(relative(s) - relative(t)).mean(1)


def ref_rkd_angle(s, t):
    def angles(x):
        x = x.reshape(len(x), -1)
        out = np.zeros((len(x),) * 3)
        for i, j, k in np.ndindex(out.shape):
            if i not in (j, k):
                a, b = x[j] - x[i], x[k] - x[i]
                out[i, j, k] = a @ b / (np.linalg.norm(a) * np.linalg.norm(b))
        return out

    return huber_of(angles(s) - angles(t)).mean((1, 2))


def ref_pkt(s, t, eps=1e-7):
    def neighbours(x):
        x = x.reshape(len(x), -1)
        x = x / (np.linalg.norm(x, axis=1, keepdims=True) + eps)
        a = (x @ x.T + 1) / 2
        return a / a.sum(1, keepdims=True)

    p, q = neighbours(t), neighbours(s)
    return (p * np.log((p + eps) / (q + eps))).mean(1)


def powered(t, gamma):
    power = np.exp(log_softmax(t)) ** gamma
    return power / power.sum(1, keepdims=True), power.sum(1)


def ref_ttm(s, t, gamma):
    return kl_rows(np.log(powered(t, gamma)[0]), log_softmax(s))


def ref_wttm(s, t, gamma):
    return powered(t, gamma)[1] * ref_ttm(s, t, gamma)


def ref_nkd(s, t, temperature, labels, gamma):
    out = []
    for row_s, row_t, given in zip(s, t, labels, strict=True):
        y = row_t.argmax() if given < 0 else given
        own = -np.exp(log_softmax(row_t))[y] * log_softmax(row_s)[y]
        rest_s, rest_t = (log_softmax(np.delete(x, y) / temperature) for x in (row_s, row_t))
        out.append(own - gamma * temperature**2 * (np.exp(rest_t) * rest_s).sum())
    return np.array(out)


def ref_mlkd_class(s, t, temperature):
    q, p = (np.exp(log_softmax(x / temperature)) for x in (s, t))
    return np.full(len(s), ((p.T @ p - q.T @ q) ** 2).sum() / s.shape[1])


def ref_mlkd_batch(s, t, temperature):
    q, p = (np.exp(log_softmax(x / temperature)) for x in (s, t))
    return ((p @ p.T - q @ q.T) ** 2).sum(1)


def ref_itrd(s, t, alpha):
    c = np.array([np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    c = c * (len(s) - 1) / len(s)
    return np.full(len(s), np.log2((np.abs(c - 1) ** (2 * alpha)).sum()))


def ref_itrd_mutual(s, t):
    def gram(x):
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return x @ x.T

    own, joint = gram(s), gram(s) * gram(t)
    return len(s) * ((own / np.trace(own)) ** 2 - (joint / np.trace(joint)) ** 2).sum(1)


def ref_cwd(s, t, tau):
    q, p = (log_softmax(x.reshape(*x.shape[:2], -1) / tau) for x in (s, t))
    return tau**2 * kl_rows(p, q).mean(1)


def ref_pkd(s, t):
    def standard(x):
        return (x - x.mean((0, 2, 3), keepdims=True)) / (
            x.std((0, 2, 3), ddof=1, keepdims=True) + 1e-6
        )

    return 0.5 * ((standard(s) - standard(t)) ** 2).mean((1, 2, 3))


def ref_token_similarity(s, t, tau):
    def near(x):
        x = x.reshape(*x.shape[:2], -1)
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        return log_softmax(x.transpose(0, 2, 1) @ x / tau)

    return kl_rows(near(t), near(halved(s))).mean(1)


def ref_srrl(s, t, head_weight, alpha, beta):
    difference = s.mean((2, 3)) - t.mean((2, 3))
    return alpha * (difference**2).mean(1) + beta * ((difference @ head_weight.T) ** 2).mean(1)


def ref_simkd(s, t):
    return ref_hint(halved(s), t)


def ref_huber(s, t, delta):
    return huber_of(s - t, delta)


def ref_bounded(s, t, labels):
    own, teacher = ((s - labels) ** 2).sum(1), ((t - labels) ** 2).sum(1)
    return np.where(own > teacher, own, 0.0)


def ref_imitation(s, t, labels, error_range, alpha):
    trust = np.maximum(0, 1 - ((t - labels) ** 2).sum(1) / error_range)
    follow = trust * ((s - t) ** 2).sum(1)
    return alpha * ((s - labels) ** 2).sum(1) + (1 - alpha) * follow


def ref_gaussian_kl(s, t):
    half = s.shape[1] // 2
    ratio, apart = np.exp(2 * (t[:, half:] - s[:, half:])), (t[:, :half] - s[:, :half]) ** 2
    nats = s[:, half:] - t[:, half:] + ratio / 2 + apart / (2 * np.exp(2 * s[:, half:])) - 0.5
    return nats.sum(1)


def ref_huber_means(s, t, delta):
    half = s.shape[1] // 2
    return huber_of(s[:, :half] - t[:, :half], delta).mean(1)


REFERENCES = {name[4:]: value for name, value in list(globals().items()) if name[:4] == "ref_"}
