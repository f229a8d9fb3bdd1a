"""Operators of other libraries and plain functions: the same numbers as there, and wrong ones named."""

import numpy as np
import pytest
import scipy.sparse
from scipy.sparse.linalg import LinearOperator

from safi_fast.errors import InputError, OperatorError
from safi_fast.operators import (
    Blur,
    FourierMRI,
    check_adjoint,
    check_operator,
    from_deepinv,
    from_functions,
    from_mrpro,
    from_pylops,
    from_scipy,
    from_sigpy,
)

SHAPE = (11, 14)
RNG = np.random.default_rng(3)
TAPS = RNG.random((3, 5))
BLUR = Blur(TAPS, SHAPE, "zero")
X = RNG.standard_normal((3, *SHAPE)).astype(np.float32)
Z = (X + 1j * RNG.standard_normal(X.shape)).astype(np.complex64)


# ------------------------------------------------------------------------------------------------------ plain functions


def test_functions():
    operator = from_functions(lambda x: x[::2], lambda y: np.insert(y, range(1, 6), 0, axis=0), SHAPE, (6, 14))
    np.testing.assert_array_equal(operator.apply(X), X[:, ::2])
    assert operator.norm == pytest.approx(1, rel=0.03)
    check_operator(operator)


def test_functions_of_batches_and_of_complex_measurements():
    mask = RNG.random(SHAPE) < 0.5
    operator = from_functions(
        lambda x: mask * np.fft.fft2(x, norm="ortho"),
        lambda y: np.fft.ifft2(mask * y, norm="ortho"),  # its real part is taken, images being real
        SHAPE, SHAPE, complex=True, batched=True, norm=1.0,
    )  # fmt: skip
    check_operator(operator)
    expected = FourierMRI(mask, mask_order="fft", check_order=False)
    np.testing.assert_allclose(operator.apply(X), expected.apply(X), atol=1e-6)
    np.testing.assert_allclose(operator.normal(X), expected.normal(X), atol=1e-6)


def test_functions_that_write_do_no_harm():
    def half(x):
        x *= 0.5
        return x

    x = X.copy()
    operator = from_functions(half, half, SHAPE, SHAPE)
    np.testing.assert_array_equal(operator.apply(x), X / 2)
    np.testing.assert_array_equal(x, X)
    check_operator(operator)


def gradient(x):
    return np.diff(x)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_functions(gradient, None, SHAPE, (11, 13)), InputError, "adjoint is None; expected a function"),
        (
            lambda: check_adjoint(from_functions(gradient, gradient, SHAPE, (11, 13))),
            OperatorError,
            r"from_functions\(gradient\): adjoint returned shape \(11, 12\); expected \(11, 14\)",
        ),
        (
            lambda: from_functions(gradient, gradient, SHAPE, SHAPE).apply(X),
            OperatorError,
            r"from_functions\(gradient\): apply returned shape \(11, 13\); expected \(11, 14\)",
        ),
        (
            lambda: check_adjoint(from_functions(gradient, lambda y: np.pad(y, ((0, 0), (0, 1))), SHAPE, (11, 13))),
            OperatorError,
            r"from_functions\(gradient\): adjoint is not the adjoint of apply",
        ),
        (
            lambda: from_functions(np.fft.fft2, np.fft.ifft2, SHAPE, SHAPE).apply(X),
            OperatorError,
            "apply returned complex numbers .*; expected real ones, or pass complex=True",
        ),
        (
            lambda: check_operator(from_functions(np.fft.fft2, np.fft.ifft2, SHAPE, SHAPE, image="complex", norm=1)),
            OperatorError,
            "a scale that one of the two lacks .*orthonormal FFT",
        ),
        (
            lambda: check_operator(from_functions(lambda x: 3 * x, lambda y: 3 * y, SHAPE, SHAPE, norm=1)),
            OperatorError,
            r"norm is 1, but \|\|H x\|\| / \|\|x\|\| reaches 3",
        ),
    ],
)
def test_wrong_functions(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------------------------------------------------------- scipy


def test_scipy_linear_operator():
    pixels = X[0].size
    linear = LinearOperator(
        (pixels, pixels), dtype=np.float32,
        matvec=lambda x: BLUR.apply(x.reshape(SHAPE)).ravel(), rmatvec=lambda y: BLUR.adjoint(y.reshape(SHAPE)).ravel(),
    )  # fmt: skip
    operator = from_scipy(linear, SHAPE, SHAPE)
    check_operator(operator)
    np.testing.assert_allclose(operator.apply(X), BLUR.apply(X), atol=1e-6)
    np.testing.assert_allclose(operator.adjoint(X), BLUR.adjoint(X), atol=1e-6)
    assert operator.norm == pytest.approx(BLUR.norm, rel=0.03)


@pytest.mark.parametrize("kind", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_array])
@pytest.mark.parametrize("dtype", [np.float64, np.complex64])
def test_scipy_matrices(kind, dtype):
    matrix = RNG.standard_normal((20, X[0].size)).astype(dtype)
    if dtype is np.complex64:
        matrix = matrix + 1j * RNG.standard_normal(matrix.shape).astype(np.float32)
    operator = from_scipy(kind(matrix), SHAPE)
    assert (operator.shape_out, operator.complex) == ((20,), dtype is np.complex64)
    check_operator(operator)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    assert largest <= operator.norm <= 1.1 * largest
    images = Z if operator.image == "complex" else X
    np.testing.assert_allclose(operator.apply(images), images.reshape(3, -1) @ matrix.T, rtol=1e-4, atol=1e-4)
    check_operator(from_scipy(kind(matrix), SHAPE, (4, 5), image="real"))
    check_operator(from_scipy(kind(matrix), SHAPE, (4, 5), image="complex"))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: from_scipy("matrix", SHAPE), InputError, "operator is str; expected a LinearOperator or a matrix"),
        (lambda: from_scipy(np.ones((3, 9)), (4, 4)), InputError, r"shape_in is \(4, 4\), 16 pixels; .* takes 9"),
        (
            lambda: from_scipy(np.ones((3, 16)), (4, 4), (2, 2)),
            InputError,
            r"shape_out is \(2, 2\), 4 numbers; .* gives 3",
        ),
        (lambda: from_scipy(np.ones((3, 16)), 4), InputError, "shape_in is 4; expected two positive numbers"),
        (
            lambda: from_scipy(LinearOperator((16, 16), matvec=lambda x: x, dtype=float), (4, 4)),
            InputError,
            "operator is a .*LinearOperator without adjoint; give it an rmatvec",
        ),
    ],
)
def test_wrong_scipy_operators(make, error, message):
    with pytest.raises(error, match=message):
        make()


# -------------------------------------------------------------------------------------------------------- sigpy, pylops


def test_sigpy():
    sigpy = pytest.importorskip("sigpy", reason="the adapter for sigpy is tested with sigpy (extra 'dev')")
    maps = (RNG.standard_normal((2, *SHAPE)) + 1j * RNG.standard_normal((2, *SHAPE))).astype(np.complex64)
    linop = sigpy.linop.FFT((2, *SHAPE), axes=(-2, -1)) * sigpy.linop.Multiply(SHAPE, maps)
    operator = from_sigpy(linop)
    check_operator(operator)
    assert operator.shape_out == (2, *SHAPE)
    np.testing.assert_allclose(operator.apply(Z), np.stack([linop(z) for z in Z]), atol=1e-5)
    np.testing.assert_allclose(operator.adjoint(operator.apply(Z)), np.stack([linop.H(linop(z)) for z in Z]), atol=1e-4)
    check_operator(from_sigpy(linop, image="real"))
    check_operator(from_sigpy(sigpy.linop.Resize((1, 8, 9), (1, *SHAPE)), image="real", complex=False))
    with pytest.raises(InputError, match=r"linop.ishape is \(2, 11, 14\); expected \(H, W\)"):
        from_sigpy(sigpy.linop.FFT((2, *SHAPE)))
    with pytest.raises(InputError, match="linop is int; expected a sigpy Linop"):
        from_sigpy(3)


def test_pylops(monkeypatch):
    monkeypatch.setenv("CUPY_PYLOPS", "0")  # it would import a CuPy without libraries
    pylops = pytest.importorskip("pylops", reason="the adapter for pylops is tested with pylops (extra 'dev')")
    operator = from_pylops(pylops.FirstDerivative(SHAPE, axis=1, edge=True, dtype="float32"))
    assert (operator.shape_out, operator.name) == (SHAPE, "from_pylops(FirstDerivative)")
    check_operator(operator)
    transform = from_pylops(pylops.signalprocessing.FFT2D(SHAPE, norm="ortho", dtype="complex128"))
    check_operator(transform)
    np.testing.assert_allclose(transform.apply(Z), np.fft.fft2(Z, norm="ortho"), atol=1e-5)
    with pytest.raises(InputError, match=r"dims \(30,\); expected a pylops operator with dims=\(H, W\)"):
        from_pylops(pylops.Identity(30))


# ------------------------------------------------------------------------------------ deepinv, by stand-ins of its form


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="deepinv's operators work on torch tensors")


def test_deepinv_real(torch):
    class Decimate:
        """(B, 1, H, W) to (B, 1, h, W), with a buffer as a torch module has."""

        def buffers(self):
            return iter([torch.full((1,), 2.0)])

        def A(self, x):  # noqa: N802
            return 2 * x[:, :, ::2]

        def A_adjoint(self, y):  # noqa: N802
            x = torch.zeros((len(y), 1, *SHAPE))
            x[:, :, ::2] = 2 * y
            return x

    operator = from_deepinv(Decimate(), SHAPE)
    assert (operator.shape_out, operator.complex, operator.name) == ((1, 6, 14), False, "from_deepinv(Decimate)")
    check_operator(operator)
    np.testing.assert_array_equal(operator.apply(X), 2 * X[:, None, ::2])


def test_deepinv_complex(torch):
    """As its MRI: two channels, real and imaginary part, in images and measurements."""

    class Transform:
        def A(self, x):  # noqa: N802
            y = torch.fft.fft2(torch.complex(x[:, 0], x[:, 1]), norm="ortho")
            return torch.stack([y.real, y.imag], 1)

        def A_adjoint(self, y):  # noqa: N802
            x = torch.fft.ifft2(torch.complex(y[:, 0], y[:, 1]), norm="ortho")
            return torch.stack([x.real, x.imag], 1)

    operator = from_deepinv(Transform(), SHAPE, image="complex", norm=1.0)
    assert (operator.shape_out, operator.complex) == ((2, *SHAPE), False)
    check_operator(operator)
    expected = np.fft.fft2(Z, norm="ortho")
    np.testing.assert_allclose(operator.apply(Z), np.stack([expected.real, expected.imag], 1), atol=1e-6)


def test_what_is_no_physics(torch):
    with pytest.raises(InputError, match="physics is Blur; expected a linear physics with A and A_adjoint"):
        from_deepinv(BLUR, SHAPE)


# -------------------------------------------------------------------------------------- MRpro, by stand-ins of its form


class Coils:
    """(other, 1, 1, H, W) to (other, 3, 1, h, W), or with `copies` to (2, 3, 1, h, W) of one image alone."""

    def __init__(self, torch, copies=1):
        weights = np.random.default_rng(0).standard_normal((2, copies, 3, 1, 1, 1)).astype(np.float32)
        self.weights = torch.complex(*map(torch.tensor, weights))
        self.torch = torch

    def buffers(self):
        return iter([self.weights])

    def __call__(self, x):
        if len(self.weights) > 1 and len(x) > 1:
            raise RuntimeError("of one image")
        return ((self.weights * x)[..., ::2, :],)

    @property
    def H(self):  # noqa: N802
        def adjoint(y):
            x = self.torch.zeros((*y.shape[:-2], *SHAPE), dtype=y.dtype)
            x[..., ::2, :] = self.weights.conj() * y
            return (x.sum(1, keepdim=True) if len(self.weights) == 1 else x.sum((0, 1), keepdim=True),)

        return adjoint


@pytest.mark.parametrize("copies", [1, 2])
def test_mrpro(torch, copies):
    coils = Coils(torch, copies)
    operator = from_mrpro(coils, SHAPE)
    height = len(range(0, SHAPE[0], 2))
    assert operator.shape_out == (*([2] if copies == 2 else []), 3, 1, height, SHAPE[1])
    assert (operator.image, operator.complex, operator.name) == ("complex", True, "from_mrpro(Coils)")
    check_operator(operator)
    expected = [(coils.weights.numpy() * image)[..., ::2, :].reshape(operator.shape_out) for image in Z]
    np.testing.assert_allclose(operator.apply(Z), expected, rtol=1e-5)
    check_operator(from_mrpro(coils, SHAPE, image="real"))


def test_what_is_no_operator_of_mrpro(torch):
    with pytest.raises(InputError, match="linear_operator is int; expected a LinearOperator of mrpro"):
        from_mrpro(3, SHAPE)
