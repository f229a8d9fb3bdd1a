"""The whole method in plain float64 NumPy: the judge of every kernel and solver. Shares no code with safi_fast.

Shapes: image x, y (H, W), or (P, H, W) of several planes under one mask; filter responses, masks and dual variables
(C, H, W). A cascade `layers` is a list of
(C_out, C_in, k, k) with odd k. `boundary` is "zero" (every layer of a cascade pads its own input with zeros, as the
published weights expect) or "symmetric" (half-sample symmetric extension; the analysis cascade is composed first).

    python tests/support/oracle.py DATA_FOLDER      prints the comparison with the published code's outputs
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.special import expit

PAD_MODE = {"zero": "constant", "symmetric": "symmetric"}
UNIT_BOX = (0.0, 1.0)
# The tolerance of the converged schedule falls geometrically from the first to the last over these outer steps.
FIRST_TOLERANCE, LAST_TOLERANCE, TOLERANCE_STEPS = 1e-3, 1e-5, 5


# --------------------------------------------------------------------------------------------------- convolutions


def _valid(extended, weight, dilation=1):
    """out[o, p] = sum_{c, q} weight[o, c, q] extended[c, p + dilation q]: (C_in, H + 2r, W + 2r) -> (C_out, H, W)."""
    c_out, c_in, k, _ = weight.shape
    span = dilation * (k - 1)
    height, width = extended.shape[1] - span, extended.shape[2] - span
    # The k horizontal shifts become channels, so one matrix product does a whole row of the kernel.
    shifts = np.stack([extended[:, :, j * dilation : j * dilation + width] for j in range(k)], axis=1)
    shifts = shifts.reshape(c_in * k, -1)
    out = np.zeros((c_out, height * width))
    for i in range(k):
        first = i * dilation * width
        out += weight[:, :, i, :].reshape(c_out, c_in * k) @ shifts[:, first : first + height * width]
    return out.reshape(c_out, height, width)


def _valid_adjoint(response, weight, dilation=1):
    """The adjoint of `_valid`, literally: every response is spread back over the samples that it was made of."""
    c_out, c_in, k, _ = weight.shape
    height, width = response.shape[1:]
    span = dilation * (k - 1)
    extended = np.zeros((c_in, height + span, width + span))
    for i in range(k):
        spread = weight[:, :, i, :].reshape(c_out, c_in * k).T @ response.reshape(c_out, -1)
        spread = spread.reshape(c_in, k, height, width)
        for j in range(k):
            rows, columns = slice(i * dilation, i * dilation + height), slice(j * dilation, j * dilation + width)
            extended[:, rows, columns] += spread[:, j]
    return extended


def _pad(image, radius, boundary):
    return np.pad(image, ((0, 0), (radius, radius), (radius, radius)), mode=PAD_MODE[boundary])


def _pad_adjoint(extended, radius, boundary):
    """Crop for "zero"; for "symmetric" fold: every sample of the frame is added to the one it was copied from."""
    if boundary == "zero":
        return extended[:, radius : extended.shape[1] - radius, radius : extended.shape[2] - radius]
    for axis in (1, 2):
        source = np.pad(np.arange(extended.shape[axis] - 2 * radius), radius, mode="symmetric")
        moved = np.moveaxis(extended, axis, 0)
        folded = np.zeros((len(source) - 2 * radius, *moved.shape[1:]))
        np.add.at(folded, source, moved)
        extended = np.moveaxis(folded, 0, axis)
    return extended


def _radius(weight, dilation):
    if weight.shape[-1] % 2 == 0 or weight.shape[-1] != weight.shape[-2]:
        raise ValueError(f"weight: expected odd square kernels, got shape {weight.shape}")
    return dilation * (weight.shape[-1] // 2)


def correlate(image, weight, boundary, dilation=1):
    """out[o, p] = sum_{c, q} weight[o, c, q] E(image)[c, p + dilation (q - centre)], E the extension by `boundary`.

    image (C_in, H, W), weight (C_out, C_in, k, k) -> (C_out, H, W); a torch conv2d with "same" size.
    """
    image, weight = np.asarray(image, float), np.asarray(weight, float)
    return _valid(_pad(image, _radius(weight, dilation), boundary), weight, dilation)


def correlate_adjoint(image, weight, boundary, dilation=1):
    """The exact adjoint of `correlate`, with the same weight: (C_out, H, W) -> (C_in, H, W)."""
    image, weight = np.asarray(image, float), np.asarray(weight, float)
    return _pad_adjoint(_valid_adjoint(image, weight, dilation), _radius(weight, dilation), boundary)


def correlate_depthwise(image, weight, boundary):
    """Channel c of the image with kernel c only: (C, H, W), (C, 1, k, k) -> (C, H, W)."""
    return np.concatenate([correlate(plane[None], w[None], boundary) for plane, w in zip(image, weight, strict=True)])


def correlate_depthwise_adjoint(image, weight, boundary):
    """The exact adjoint of `correlate_depthwise`: (C, H, W) -> (C, H, W)."""
    planes = [correlate_adjoint(plane[None], w[None], boundary) for plane, w in zip(image, weight, strict=True)]
    return np.concatenate(planes)


# ------------------------------------------------------------------------------------------ the learned transform W


def compose(layers):
    """The cascade as one filter per channel: list of (C_i, C_{i-1}, k_i, k_i) -> (C, K, K), K = sum(k_i - 1) + 1.

    Correlating twice is correlating once with the full convolution of the kernels, summed over the channels between.
    """
    first, *rest = [np.asarray(w, float) for w in layers]
    filters = first[:, 0]
    for weight in rest:
        filters = _valid_adjoint(filters, weight.transpose(1, 0, 2, 3))
    return filters


def _planes(x):
    return np.asarray(x, float).reshape(-1, *x.shape[-2:])


def _composed(layers):
    """`compose` for each plane: (C, P, K, K)."""
    first, *rest = layers
    return np.stack([compose([first[:, plane : plane + 1], *rest]) for plane in range(first.shape[1])], axis=1)


def analysis(x, layers, boundary):
    """W x: (H, W) or (P, H, W) -> (C, H, W), summed over planes.

    "zero": layer after layer, each with its own zero padding. "symmetric": the composed filters on the symmetric
    extension, which is not the same as extending before every layer and is the definition for this project's models.
    """
    if boundary == "symmetric":
        return correlate(_planes(x), _composed(layers), boundary)
    response = _planes(x)
    for weight in layers:
        response = correlate(response, weight, boundary)
    return response


def synthesis(u, layers, boundary):
    """W^T u, the exact adjoint of `analysis`: (C, H, W) -> (H, W) or (P, H, W)."""
    for weight in [_composed(layers)] if boundary == "symmetric" else reversed(layers):
        u = correlate_adjoint(u, weight, boundary)
    return u[0] if len(u) == 1 else u


def lipschitz(layers, boundary, shape, iterations=100, seed=0):
    """||W||^2 on images of this shape: the largest eigenvalue of W^T W, from below, by power iteration."""
    x = np.random.default_rng(seed).standard_normal(shape)
    value = 0.0
    for _ in range(iterations):
        x = synthesis(analysis(x / np.linalg.norm(x), layers, boundary), layers, boundary)
        value = float(np.linalg.norm(x))
    return value


# ---------------------------------------------------------------------------------------------------------- masks


def spline(x, coefficients, radius_low, radius_high):
    """Linear spline per channel, n uniform knots on [radius_low, radius_high], extrapolated with its end slopes.

    x (C, ...), coefficients (C, n): the values at the knots -> (C, ...).
    """
    channels, knots = coefficients.shape
    position = (x.reshape(channels, -1) - radius_low) * ((knots - 1) / (radius_high - radius_low))
    left = np.clip(np.floor(position), 0, knots - 2).astype(np.intp)
    value_left = np.take_along_axis(coefficients, left, axis=1)
    value_right = np.take_along_axis(coefficients, left + 1, axis=1)
    return (value_left + (position - left) * (value_right - value_left)).reshape(x.shape)


def safi_mask(x, convolutions, splines, gain, bias, boundary):
    """M(x) = sigmoid(sn(Vn ... s2(V2 s1(gain . V1 x))) + bias): (H, W) -> (C, H, W) in (0, 1).

    convolutions: (weight (C_out, C_in, k, k), dilation); splines: one (C, n) each on [-1, 1]; gain, bias (C,).
    Published models have gain 1, bias 0 and dilation 1.
    """
    (weight, dilation), *rest = convolutions
    z = correlate(_planes(x), weight, boundary, dilation) * np.reshape(gain, (-1, 1, 1))
    z = spline(z, splines[0], -1, 1)
    for (weight, dilation), coefficients in zip(rest, splines[1:], strict=True):
        z = spline(correlate(z, weight, boundary, dilation), coefficients, -1, 1)
    return expit(z + np.reshape(bias, (-1, 1, 1)))


def _smooth(z, smoothing, boundary):
    """G z: the cascade of depthwise layers, each with its own extension."""
    for weight in smoothing:
        z = correlate_depthwise(z, weight, boundary)
    return z


def _smooth_adjoint(z, smoothing, boundary):
    for weight in reversed(smoothing):
        z = correlate_depthwise_adjoint(z, weight, boundary)
    return z


def mmr_mask(x, layers, boundary, smoothing, profile, scale):
    """M(x) = G^T clip(phi(scale . G |W x|), 0, 1): (H, W) -> (C, H, W).

    smoothing: depthwise (C, 1, k, k) layers of G; profile (C, n): phi at n knots on [0, 1]; scale (C,).
    """
    activity = _smooth(np.abs(analysis(x, layers, boundary)), smoothing, boundary)
    weight = np.clip(spline(np.reshape(scale, (-1, 1, 1)) * activity, profile, 0, 1), 0, 1)
    return _smooth_adjoint(weight, smoothing, boundary)


def _clipped_integral(t, profile):
    """int_0^t clip(phi(s), 0, 1) ds for one channel, exact: t (...) >= 0, profile (n,) at knots on [0, 1]."""
    knots = np.linspace(0, 1, len(profile))
    slopes = np.diff(profile) * (len(profile) - 1)
    # Where phi crosses 0 or 1 the clipped function has a further kink; the last piece continues beyond the last knot.
    ends = np.append(knots[1:-1], np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        crossings = [knots[:-1] + (level - profile[:-1]) / slopes for level in (0, 1)]
    inside = [c[np.isfinite(c) & (c > knots[:-1]) & (c < ends)] for c in crossings]
    nodes = np.unique(np.concatenate([knots, *inside]))

    def clipped(s):
        return np.clip(spline(s[None], profile[None], 0, 1)[0], 0, 1)

    # Between nodes the clipped function is linear, so the trapezoidal rule is exact.
    pieces = [
        (b - a) * (va + vb) / 2 for (a, b), (va, vb) in zip(pairwise(nodes), pairwise(clipped(nodes)), strict=True)
    ]
    until = np.concatenate([[0.0], np.cumsum(pieces)])
    at = np.clip(np.searchsorted(nodes, t, side="right") - 1, 0, len(nodes) - 1)
    return until[at] + (t - nodes[at]) * (clipped(nodes)[at] + clipped(t)) / 2


def mmr_energy(x, y, lam, layers, boundary, smoothing, profile, scale):
    """E(x) = 1/2 ||x - y||^2 + lam sum_c sum_p psi_c((G |W x|)_{c,p}), a number; needs scale > 0.

    psi_c(t) = int_0^t clip(phi_c(scale_c s), 0, 1) ds, exact for the clipped spline. As phi does not increase, psi_c is
    concave and E is majorised at x by the convex problem with mask M(x): the outer steps never raise E.
    """
    activity = _smooth(np.abs(analysis(x, layers, boundary)), smoothing, boundary)
    channels = zip(activity, profile, scale, strict=True)
    penalty = sum(float(_clipped_integral(s * a, phi).sum()) / s for a, phi, s in channels)
    return 0.5 * float(np.sum((x - y) ** 2)) + lam * penalty


# ------------------------------------------------------------------------------------------- one convex subproblem


def _into(box, x):
    return x if box is None else np.clip(x, *box)


def _masked(mask, z):
    return z if mask is None else mask * z


def objective(x, y, lam, mask, layers, boundary):
    """f(x) = 1/2 ||x - y||^2 + lam ||M . W x||_1, a number; mask None means M = 1."""
    response = _masked(mask, analysis(x, layers, boundary))
    return 0.5 * float(np.sum((x - y) ** 2)) + lam * float(np.sum(np.abs(response)))


def primal(u, y, mask, layers, boundary, box=UNIT_BOX):
    """x(u) = clip(y - W^T(M . u), box): the image that belongs to a dual variable, (C, H, W) -> (H, W)."""
    return _into(box, y - synthesis(_masked(mask, u), layers, boundary))


def dual_step(v, y, lam, lipschitz, mask, layers, boundary, box=UNIT_BOX):
    """clip(v + (1 / ||W||^2) M . W x(v), -lam, lam): one projected gradient step in the dual, (C, H, W) -> same."""
    gradient = _masked(mask, analysis(primal(v, y, mask, layers, boundary, box), layers, boundary))
    return np.clip(v + gradient / lipschitz, -lam, lam)


def duality_gap(x0, u, y, lam, mask, layers, boundary, box=UNIT_BOX):
    """lam ||M.W x0||_1 - <u, M.W x0> + max_{x in box} <g, x0 - x> >= f(x0) - f*, with g = x0 - y + W^T(M.u).

    Needs x0 in the box and |u| <= lam; without a box the maximum is unbounded and there is no gap to report.
    """
    if box is None:
        raise ValueError("box: the gap is unbounded without a box")
    if np.abs(u).max() > lam * (1 + 1e-12):
        raise ValueError(f"u: expected |u| <= lam = {lam}, got {np.abs(u).max()}")
    if x0.min() < box[0] or x0.max() > box[1]:
        raise ValueError(f"x0: expected values in {box}, got {x0.min()} to {x0.max()}")
    response = _masked(mask, analysis(x0, layers, boundary))
    g = x0 - y + synthesis(_masked(mask, u), layers, boundary)
    furthest = np.maximum(g * (x0 - box[0]), g * (x0 - box[1]))
    return float(np.sum(lam * np.abs(response) - u * response) + np.sum(furthest))


def solve_dual(y, lam, mask, layers, boundary, steps=5000, box=UNIT_BOX):
    """The convex subproblem by a long accelerated run from u = 0: returns x(u) (H, W) and u (C, H, W).

    The momentum restarts where it points uphill, which turns the 1/steps^2 tail into a geometric one.
    """
    bound = 1.01 * lipschitz(layers, boundary, y.shape)
    u = v = np.zeros_like(analysis(y, layers, boundary))
    t = 1.0
    for _ in range(steps):
        u_new = dual_step(v, y, lam, bound, mask, layers, boundary, box)
        if np.vdot(v - u_new, u_new - u) > 0:
            t = 1.0
        t_new = _next_t(t)
        v = u_new + (t - 1) / t_new * (u_new - u)
        u, t = u_new, t_new
    return primal(u, y, mask, layers, boundary, box), u


def _next_t(t):
    return (1 + np.sqrt(1 + 4 * t * t)) / 2


# ------------------------------------------------------------------------------------- the two published schedules


def unrolled(y, lam, lipschitz, mask_fn, layers, boundary, outer=5, inner=12, box=UNIT_BOX):
    """The schedule the published networks were trained with: (H, W) -> (H, W).

    u = v = W y, unclipped, once; the first outer step has no mask, later ones the mask of the previous x; exactly
    `inner` steps each; t returns to 1 at every outer step while u and the extrapolated v are carried over.
    """
    u = v = analysis(y, layers, boundary)
    mask = None
    for step in range(outer):
        t = 1.0
        for _ in range(inner):
            u_new = dual_step(v, y, lam, lipschitz, mask, layers, boundary, box)
            t_new = _next_t(t)
            v = u_new + (t - 1) / t_new * (u_new - u)
            u, t = u_new, t_new
        x = primal(u, y, mask, layers, boundary, box)
        if step < outer - 1:
            mask = mask_fn(x)
    return x


def converged(
    y, lam, lipschitz, mask_fn, layers, boundary, family, outer=10, inner=100, box=UNIT_BOX, counts=None, replay=None
):
    """The schedule the published networks were tested with: (H, W) -> (H, W).

    Every outer step starts anew from u = v = M . W x, unclipped, x the previous image (the noisy one, M = 1, first).
    family "mmr" uses the FISTA rule once there is a mask; everything else uses the CD rule. `counts`, a list,
    receives the number of dual steps made in each outer step; one that stopped has thrown its last one away.

    Two correct implementations may part: the FISTA rule compares objectives that agree to five digits, so rounding
    moves where it stops. `replay`, the counts of another run with the same `inner`, takes the place of the rules.
    With large ||W||^2 the unclipped start also multiplies any difference by about 3.5 in each outer step (measured,
    published MMR, sigma 25: float32 rounding ends at a mean of 3e-4; sigma 5 contracts), which no replay cures.
    """
    x, mask = y, None
    for step in range(outer):
        if step:
            mask = mask_fn(x)
        rule = "fista" if family == "mmr" and step else "cd"
        stop_at = None if replay is None else replay[step]
        x, made = _converged_inner(
            x, y, lam, lipschitz, mask, layers, boundary, rule, _tolerance(step), inner, box, stop_at
        )
        if counts is not None:
            counts.append(made)
    return x


def _tolerance(step):
    """1e-3 falling geometrically to 1e-5 over outer steps 0..5, constant afterwards."""
    return FIRST_TOLERANCE * (LAST_TOLERANCE / FIRST_TOLERANCE) ** (min(step, TOLERANCE_STEPS) / TOLERANCE_STEPS)


def _converged_inner(x, y, lam, lipschitz, mask, layers, boundary, rule, tolerance, inner, box, stop_at):
    """One outer step of `converged`: returns x(u) and the number of dual steps made."""
    u = v = _masked(mask, analysis(x, layers, boundary))
    t = 1.0 if rule == "fista" else 5 / 3
    x_old = primal(u, y, mask, layers, boundary, box)
    f_old = objective(x_old, y, lam, mask, layers, boundary) if rule == "fista" else None
    for i in range(inner):
        u_new = dual_step(v, y, lam, lipschitz, mask, layers, boundary, box)
        x_new = primal(u_new, y, mask, layers, boundary, box)
        if rule == "fista":
            f_new = objective(x_new, y, lam, mask, layers, boundary)
            stop = abs(f_old - f_new) / f_old < tolerance
            f_old, t_new = f_new, _next_t(t)
        else:
            stop = i > 5 and np.linalg.norm(x_new - x_old) / np.linalg.norm(x_old) < tolerance
            t_new = (i + 6) / 3
        if stop_at is not None:
            stop = i + 1 == stop_at < inner
        if stop:
            return x_old, i + 1  # the published code leaves the loop before it accepts the new iterate
        v = u_new + (t - 1) / t_new * (u_new - u)
        u, t, x_old = u_new, t_new, x_new
    return x_old, inner


# ------------------------------------------------------------------------------------------- published checkpoints


def read_published(path_pth):
    """A published checkpoint as float64 arrays with its projections applied: the keys of `mask_of`, and "strength".

    W's kernels zero-mean; G absolute and summing to one; phi(0) = 1 with slopes clamped to <= 0; scale = |c|.
    SAFI's mask filters and splines are taken as they are.
    """
    import torch

    state = torch.load(path_pth, map_location="cpu", weights_only=True)["state_dict"]
    state = {name: tensor.double().numpy() for name, tensor in state.items()}
    model = {
        "layers": [w - w.mean(axis=(2, 3), keepdims=True) for w in _cascade(state, "W1")],
        "strength": max(float(state["lmbda"].squeeze()), 1e-12),
    }
    return model | (_read_safi(state) if "W4.W1.weight" in state else _read_mmr(state))


def _cascade(state, name):
    later = sorted((key for key in state if key.startswith(f"{name}.W1s.")), key=lambda key: int(key.split(".")[2]))
    return [state[key] for key in (f"{name}.W1.weight", *later)]


def _read_safi(state):
    channels = state["W4.W1.weight"].shape[0]
    return {
        "family": "safi",
        "convolutions": [(state[f"{name}.W1.weight"], 1) for name in ("W4", "W2", "W3")],
        "splines": [state[f"phigrad_spline{i}.coefficients"] for i in (1, 2, 3)],
        "gain": np.ones(channels),
        "bias": np.zeros(channels),
    }


def _read_mmr(state):
    smoothing = [np.abs(w) for w in _cascade(state, "W2")]
    falls = np.minimum(np.diff(state["phigrad_spline.coefficients"], axis=1), 0)
    return {
        "family": "mmr",
        "smoothing": [w / w.sum(axis=(2, 3), keepdims=True) for w in smoothing],
        "profile": 1 + np.concatenate([np.zeros((len(falls), 1)), np.cumsum(falls, axis=1)], axis=1),
        "scale": np.abs(state["cs"]).ravel(),
    }


def mask_of(x, model, boundary="zero"):
    """The mask of either family from the dictionary of `read_published`: (H, W) -> (C, H, W)."""
    if model["family"] == "safi":
        return safi_mask(x, *(model[key] for key in ("convolutions", "splines", "gain", "bias")), boundary)
    return mmr_mask(x, model["layers"], boundary, *(model[key] for key in ("smoothing", "profile", "scale")))


# ----------------------------------------------------------------------------------------------- golden comparison


def psnr(x, clean):
    """Peak signal-to-noise ratio in dB for range 1."""
    return -10 * float(np.log10(np.mean((x - clean) ** 2)))


def golden_outputs(golden, model, schedules=("unrolled", "converged")):
    """The arrays of a golden file (a dict) computed here, under the names that the file uses."""
    y = np.asarray(golden["noisy"], float)
    layers, bound = model["layers"], float(golden["lipschitz"])

    def mask_fn(x):
        return mask_of(x, model)

    out = {"filtered": analysis(y, layers, "zero"), "mask_of_noisy": mask_fn(y)}
    trained = float(golden["lambda_trained"])
    if "unrolled" in schedules:
        out["unrolled_5x12"] = unrolled(y, trained, bound, mask_fn, layers, "zero")
    if "converged" in schedules:
        lam = float(golden["lambda_tuned"]) if "lambda_tuned" in golden else trained
        out["converged_10x100"] = converged(y, lam, bound, mask_fn, layers, "zero", model["family"])
    return out


def golden_pairs(data):
    """(golden .npz, checkpoint .pth) of every golden file below the data folder."""
    folder, weights = Path(data) / "golden", Path(data) / "weights"
    files = sorted(folder.glob("*.npz"))
    return [(f, next(p for p in (f.with_suffix(".pth"), weights / f"{f.stem}.pth") if p.exists())) for f in files]


def _print_comparison(data):
    for npz, pth in golden_pairs(data):
        golden = dict(np.load(npz))
        for name, value in golden_outputs(golden, read_published(pth)).items():
            error = np.abs(value - golden[name])
            figures = f"max {error.max():.2e}  mean {error.mean():.2e}  99.9% {np.quantile(error, 0.999):.2e}"
            if value.ndim == 2:
                change = psnr(value, golden["clean"]) - psnr(golden[name], golden["clean"])
                figures += f"  PSNR {psnr(value, golden['clean']):.4f} dB ({change:+.5f})"
            print(f"{npz.stem:16s} {name:16s} {figures}", flush=True)


if __name__ == "__main__":
    _print_comparison(sys.argv[1])
