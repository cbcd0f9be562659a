"""Targets made by denoisers: the alternation, the network, and denoisers of other packages."""

import subprocess
import sys

import numpy as np
import pytest
import torch

import bioperf
from bioperf.cli.app import run
from bioperf.io import InputError
from bioperf.learning.network import DilatedDenoiser
from bioperf.learning.weights import write_tensors
from bioperf.targets import CNN, Denoised, from_callable, resolve_target

NOISE = 0.02


def smooth_image(shape, dtype=np.float64):
    i, j = np.meshgrid(*(np.linspace(0, 1, n) for n in shape), indexing="ij")
    return (0.5 + 0.3 * np.sin(5 * i + 2 * j) + 0.2 * ((i - 0.5) ** 2 + (j - 0.4) ** 2 < 0.06)).astype(dtype)


def blurred(dtype=np.float64, shape=(32, 30)):
    rng = np.random.default_rng(0)
    truth = smooth_image(shape, dtype)
    A = bioperf.Blur(np.full((3, 3), 1 / 9), shape)
    return truth, A, (A(truth) + NOISE * rng.standard_normal(shape)).astype(dtype)


def sampled(real=True, dtype=np.complex128, shape=(32, 30)):
    rng = np.random.default_rng(1)
    mask = rng.random(shape) < 0.5
    mask[0, 0] = True
    truth = smooth_image(shape)
    truth = truth if real else truth * np.exp(1j * truth)
    A = bioperf.MaskedFourier(mask, real=real)
    return truth.astype(A.image_dtype(np.zeros(1, dtype))), A, A(truth).astype(dtype)


def called(target, A, y, xbar, **context):
    return target(A, y, (), xbar=xbar, tv_weight=1e-3, isotropic=True, **context)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with a network of random weights: its residual is small and never 0."""
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    torch.manual_seed(3)
    network = DilatedDenoiser()
    for norm in network.norms:
        torch.nn.init.uniform_(norm.running_mean, -0.2, 0.2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 1.5)
    tensors = {name: t for name, t in network.state_dict().items() if t.is_floating_point()}
    write_tensors(path, tensors, "denoiser", {})
    return path


class TestAlternation:
    @pytest.mark.parametrize("problem", ["blur", "kspace", "complex"])
    def test_one_round_is_the_regularised_inverse_then_the_denoiser(self, problem):
        truth, A, y = {"blur": blurred, "kspace": sampled, "complex": lambda: sampled(real=False)}[problem]()
        level, weight = 0.05, 0.3
        seen = []

        def denoise(images, level):
            seen.append((images.copy(), level))
            return images

        D = called(Denoised(denoise, rounds=1, levels=(level, level), weight=weight), A, y, truth, noise_std=NOISE)
        spread = np.abs(A.data_image(y)).max() if truth.dtype.kind == "c" else np.ptp(A.data_image(y))
        rho = weight * (NOISE / (spread * level)) ** 2
        # D is the minimiser itself here: its gradient vanishes
        gradient = A.adjoint(A(D) - y) + rho * (D - truth)
        assert np.abs(gradient).max() < 1e-12
        assert seen[0][1] == level
        assert seen[0][0].shape == ((2 if truth.dtype.kind == "c" else 1), *truth.shape)

    def test_several_coils_solve_the_same_problem_by_conjugate_gradients(self):
        rng = np.random.default_rng(2)
        truth = smooth_image((24, 20)) * (1 + 0.2j)
        maps = rng.standard_normal((3, 24, 20)) + 1j * rng.standard_normal((3, 24, 20))
        maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
        mask = rng.random((24, 20)) < 0.7
        A = bioperf.MultiCoilFourier(mask, maps)
        y = A(truth)
        D = called(Denoised(lambda z, s: z, rounds=1, levels=(0.1, 0.1), weight=50.0), A, y, 0 * truth, noise_std=0.1)
        rho = 50.0 * (0.1 / (np.abs(A.data_image(y)).max() * 0.1)) ** 2
        gradient = A.adjoint(A(D) - y) + rho * D
        assert np.linalg.norm(gradient) < 1e-6 * np.linalg.norm(A.adjoint(y))

    def test_levels_fall_in_geometric_progression(self):
        truth, A, y = blurred()
        levels = []
        called(
            Denoised(lambda z, s: levels.append(s) or z, rounds=4, levels=(0.08, 0.01)), A, y, truth, noise_std=NOISE
        )
        np.testing.assert_allclose(levels, [0.08, 0.04, 0.02, 0.01])

    @pytest.mark.parametrize("scale, offset", [(100.0, 0.0), (0.01, 7.0)])
    def test_units_do_not_matter(self, scale, offset):
        truth, A, y = blurred()
        target = Denoised(lambda z, s: z - s * (z - 0.5) ** 2)
        plain = called(target, A, y, truth, noise_std=NOISE)
        other = called(target, A, scale * y + offset, scale * truth + offset, noise_std=scale * NOISE)
        np.testing.assert_allclose((other - offset) / scale, plain, atol=1e-8)

    def test_a_volume_is_denoised_slice_by_slice(self):
        rng = np.random.default_rng(4)
        volume = rng.random((3, 8, 9))
        A = bioperf.Blur(np.ones((1, 1, 1)), volume.shape)
        shapes = []
        D = called(Denoised(lambda z, s: shapes.append(z.shape) or z), A, volume, volume, noise_std=NOISE)
        assert set(shapes) == {(3, 8, 9)} and D.shape == volume.shape

    def test_one_axis_is_refused(self):
        A = bioperf.Blur(np.ones(3) / 3, (16,))
        y = np.random.default_rng(0).random(16)
        with pytest.raises(ValueError, match="2 or 3 axes"):
            called(Denoised(lambda z, s: z), A, y, y)

    @pytest.mark.parametrize(
        "denoise, message",
        [(lambda z, s: z * np.nan, "NaN"), (lambda z, s: z[..., 1:], "shape"), (lambda z, s: z > 0, "float")],
    )
    def test_what_a_denoiser_returns_is_checked(self, denoise, message):
        truth, A, y = blurred()
        with pytest.raises((ValueError, TypeError), match=f"target: .*{message}"):
            called(Denoised(denoise), A, y, truth, noise_std=NOISE)

    @pytest.mark.parametrize(
        "arguments, message",
        [
            ({"rounds": 0}, "rounds"),
            ({"levels": 0.1}, "levels"),
            ({"levels": (0.1, -1)}, "levels"),
            ({"weight": 0}, "weight"),
        ],
    )
    def test_arguments_are_checked(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            Denoised(lambda z, s: z, **arguments)
        with pytest.raises(TypeError, match="denoise"):
            Denoised(3)


class TestNetwork:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_shape_dtype_batch(self, weights, dtype):
        images = np.random.default_rng(0).random((2, 3, 20, 17)).astype(dtype)
        network = CNN(weights)
        denoised = network.apply(images, 0.05)
        assert denoised.shape == images.shape and denoised.dtype == dtype
        np.testing.assert_array_equal(denoised[1, 2], network.apply(images[1, 2], 0.05))
        np.testing.assert_allclose(denoised, network.apply(images.astype(np.float32), 0.05), atol=1e-6)
        assert 1e-4 < np.abs(denoised - images).max() < 1

    def test_is_the_network_that_was_trained(self, weights):
        from safetensors.torch import load_file

        image = np.random.default_rng(0).random((24, 20)).astype(np.float32)
        network = DilatedDenoiser().eval()
        network.load_state_dict(load_file(weights), strict=False)
        with torch.inference_mode():
            expected = network(torch.from_numpy(image)[None, None], torch.tensor([0.07]))[0, 0].numpy()
        np.testing.assert_allclose(CNN(weights).apply(image, 0.07), expected, atol=1e-5)

    def test_same_bits_again_and_for_any_number_of_threads(self, weights):
        image = np.random.default_rng(0).random((64, 70)).astype(np.float32)
        before = torch.get_num_threads()
        results = [CNN(weights).apply(image, 0.05, threads=threads) for threads in (1, 2, 1)]
        assert torch.get_num_threads() == before
        np.testing.assert_array_equal(results[0], results[1])
        np.testing.assert_array_equal(results[0], results[2])

    def test_level_0_changes_nothing(self, weights):
        image = np.random.default_rng(0).random((9, 8)).astype(np.float32)
        np.testing.assert_array_equal(CNN(weights).apply(image, 0), image)

    def test_bad_input(self, weights, tmp_path):
        network = CNN(weights)
        with pytest.raises(TypeError, match="images"):
            network.apply(np.zeros((8, 8), int), 0.1)
        with pytest.raises(ValueError, match="NaN"):
            network.apply(np.full((8, 8), np.nan), 0.1)
        with pytest.raises(ValueError, match="level"):
            network.apply(np.zeros((8, 8)), -0.1)
        with pytest.raises(ValueError, match="device"):
            CNN(weights, device="tpu")
        with pytest.raises(InputError, match="no such file"):
            CNN(tmp_path / "none.safetensors")

    @pytest.mark.skipif(torch.cuda.is_available(), reason="the error where there is no CUDA device")
    def test_cuda_is_asked_for_in_vain(self, weights):
        with pytest.raises(ValueError, match="no CUDA device"):
            CNN(weights, device="cuda")

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    def test_cuda_is_the_cpu_up_to_rounding(self, weights):
        image = np.random.default_rng(0).random((40, 33)).astype(np.float32)
        np.testing.assert_allclose(
            CNN(weights, device="cuda").apply(image, 0.05), CNN(weights).apply(image, 0.05), atol=1e-3
        )

    def test_truncated_and_changed_files_give_one_clear_error(self, weights, tmp_path):
        content = weights.read_bytes()
        for name, damaged in (
            ("short", content[:-100]),
            ("flipped", content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]),
        ):
            path = tmp_path / f"{name}.safetensors"
            path.write_bytes(damaged)
            with pytest.raises(InputError, match=f"{name}.safetensors: .*copy"):
                CNN(path)


class TestShippedWeights:
    @pytest.mark.parametrize("name", ["natural", "mri"])
    def test_denoise_better_than_a_median(self, name):
        from scipy.ndimage import median_filter
        from skimage.data import camera

        clean = (camera()[100:228, 180:308] / 255).astype(np.float32)
        noisy = clean + np.float32(0.05) * np.random.default_rng(0).standard_normal(clean.shape, np.float32)
        denoised = CNN(name).apply(noisy, 0.05)
        assert bioperf.psnr(denoised, clean) > bioperf.psnr(median_filter(noisy, 3), clean) + 3

    def test_other_weights_under_their_name_are_refused(self, weights, monkeypatch, tmp_path):
        (tmp_path / "natural.safetensors").write_bytes(weights.read_bytes())
        monkeypatch.setattr("bioperf.targets.cnn.FOLDER", tmp_path)
        with pytest.raises(InputError, match="install bioperf again"):
            CNN("natural")


class TestOneCall:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_deblur_takes_the_network_and_is_certified(self, dtype):
        truth, A, y = blurred(dtype, (48, 48))
        solution = bioperf.deblur(y, A.psf, noise_std=NOISE, target=CNN(rounds=2))
        assert solution.x.dtype == dtype and solution.converged
        assert solution.details["trust"] > 0
        assert bioperf.psnr(solution.x, truth) > bioperf.psnr(solution.details["lower_image"], truth)

    def test_deblur_by_name_is_the_default_network(self):
        _, A, y = blurred(np.float32)
        by_name, by_object = (bioperf.deblur(y, A.psf, noise_std=NOISE, target=t).x for t in ("cnn", CNN("natural")))
        np.testing.assert_array_equal(by_name, by_object)

    def test_a_ruinous_network_does_not_ruin_the_image(self):
        """A target that explains nothing gets no trust: the result is the lower level's."""
        _, A, y = blurred(np.float64, (40, 40))
        rng = np.random.default_rng(5)
        solution = bioperf.deblur(
            y, A.psf, noise_std=NOISE, target=Denoised(lambda z, s: rng.random(z.shape)), tol=1e-4
        )
        assert solution.details["trust"] == 0
        np.testing.assert_allclose(solution.x, solution.details["lower_image"], atol=2e-3)

    @pytest.mark.parametrize("real", [True, False])
    def test_reconstruct_mri(self, real):
        truth, A, y = sampled(real, shape=(48, 48))
        solution = bioperf.reconstruct_mri(y, A.mask, real=real, target=CNN(rounds=2))
        assert solution.x.dtype == truth.dtype and solution.converged

    def test_colours_and_batches(self):
        _, A, y = blurred(np.float32)
        stack = np.stack([y, y[::-1]])
        together = bioperf.deblur(stack, A.psf, noise_std=NOISE, target=CNN(rounds=1))
        np.testing.assert_array_equal(together.x[0], bioperf.deblur(y, A.psf, noise_std=NOISE, target=CNN(rounds=1)).x)


class Stub(torch.nn.Module):
    """A denoiser in the manner of deepinv: tensors (N, 1, H, W) and a level; remembers what it was given."""

    def __init__(self):
        super().__init__()
        self.blur = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
        torch.nn.init.constant_(self.blur.weight, 1 / 9)
        self.drop = torch.nn.Dropout(0.5)
        self.seen = []

    def forward(self, x, sigma):
        self.seen.append((tuple(x.shape), x.dtype, float(sigma)))
        return self.drop(self.blur(x))


class TestOtherDenoisers:
    def test_a_module_with_a_level(self):
        truth, A, y = blurred()
        stub = Stub().train()
        stub.blur.eval()  # as frozen parts are
        target = from_callable(stub, rounds=3)
        D = called(target, A, y, truth, noise_std=NOISE)
        assert D.dtype == np.float64
        assert [shape for shape, *_ in stub.seen] == [(1, 1, 32, 30)] * 3
        assert {dtype for _, dtype, _ in stub.seen} == {torch.float32}
        assert stub.seen[0][2] > stub.seen[-1][2] > 0
        assert stub.training and not stub.blur.training
        np.testing.assert_array_equal(D, called(target, A, y, truth, noise_std=NOISE))  # no dropout

    def test_a_module_is_a_target_by_itself(self):
        _, A, y = blurred()
        one, other = (bioperf.deblur(y, A.psf, target=t).details["target"] for t in (Stub(), from_callable(Stub())))
        np.testing.assert_array_equal(one, other)
        assert isinstance(resolve_target(torch.nn.Identity(), y), Denoised)

    def test_a_module_without_a_level_or_parameters(self):
        truth, A, y = blurred()
        D = called(from_callable(torch.nn.Identity()), A, y, truth, noise_std=NOISE)
        assert D.shape == truth.shape

    def test_a_module_that_returns_something_else(self):
        truth, A, y = blurred()
        with pytest.raises(ValueError, match="module returned"):
            called(from_callable(torch.nn.MaxPool2d(2)), A, y, truth, noise_std=NOISE)

    def test_a_denoiser_of_scikit_image(self):
        from skimage.restoration import denoise_tv_chambolle

        truth, A, y = blurred()
        solution = bioperf.deblur(y, A.psf, target=from_callable(lambda image: denoise_tv_chambolle(image, 0.02)))
        assert solution.converged
        assert bioperf.psnr(solution.details["target"], truth) > bioperf.psnr(y, truth)

    def test_the_level_goes_where_it_is_wanted(self):
        truth, A, y = blurred()
        levels = []

        def plain(image):
            levels.append(None)
            return image

        def by_name(image, sigma):
            levels.append(sigma)
            return image

        def other(image, strength):
            levels.append(strength)
            return image

        called(from_callable(plain), A, y, truth, noise_std=NOISE)
        assert levels == [None]  # one round without a level
        called(from_callable(by_name, rounds=2), A, y, truth, noise_std=NOISE)
        called(from_callable(other, takes_level=True, rounds=1), A, y, truth, noise_std=NOISE)
        assert len(levels) == 4 and all(level > 0 for level in levels[1:])

    def test_not_callable(self):
        with pytest.raises(TypeError, match="denoiser"):
            from_callable(3)


def test_without_torch_the_target_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import numpy as np, bioperf
y = np.random.default_rng(0).random((16, 16))
bioperf.deblur(y, np.ones((3, 3)))
try:
    bioperf.deblur(y, np.ones((3, 3)), target="cnn")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install bioperf[torch]" in done.stdout, done.stderr


class TestCommandLine:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        _, A, y = blurred(np.float32, (40, 36))
        np.save(tmp_path / "y.npy", y)
        np.save(tmp_path / "psf.npy", A.psf)
        _, B, kspace = sampled(shape=(40, 36))
        np.savez(tmp_path / "scan.npz", kspace=kspace, mask=B.mask)
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_deblur_and_mri(self, folder, weights):
        blur = ["deblur", "y.npy", "--psf", "psf.npy", "--boundary", "periodic", "-q", "--target"]
        assert run([*blur, "cnn", "-o", "x.npy"]) == 0
        assert run([*blur, "cnn", "--weights", str(weights), "-o", "other.npy"]) == 0
        assert run(["mri", "scan.npz", "--mask", "scan.npz", "--target", "cnn", "-q", "-o", "z.npy"]) == 0
        assert np.load("x.npy").shape == (40, 36) and np.load("z.npy").shape == (40, 36)
        assert not np.array_equal(np.load("x.npy"), np.load("other.npy"))

    @pytest.mark.parametrize(
        "options, words",
        [
            (["--weights", "w.safetensors"], "--weights: is for --target cnn"),
            (["--target", "cnn", "--weights", "none.safetensors"], "none.safetensors: no such file"),
            (["--target", "cnn", "--weights", "y.npy"], "y.npy: is not a safetensors file"),
        ],
    )
    def test_bad_input_is_one_line(self, folder, capsys, options, words):
        before = set(folder.iterdir())
        assert run(["deblur", "y.npy", "--psf", "psf.npy", "-o", "x.npy", *options]) == 2
        said = capsys.readouterr().err
        assert words in said and len(said.strip().splitlines()) == 1
        assert set(folder.iterdir()) == before

    def test_k_space_is_solved_on_the_cpu(self, folder, capsys):
        assert run(["mri", "scan.npz", "--mask", "scan.npz", "-o", "z.npy", "--device", "cuda"]) == 2
        assert "--device: is for --target cnn" in capsys.readouterr().err

    def test_without_torch(self, folder, capsys, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        assert run(["deblur", "y.npy", "--psf", "psf.npy", "-o", "x.npy", "--target", "cnn"]) == 2
        assert "pip install bioperf[torch]" in capsys.readouterr().err


def test_photographs_are_held_to_the_lower_levels_variation():
    """Where the psf is taken for an estimate: the rounds amplify its errors."""
    rng = np.random.default_rng(6)
    truth = smooth_image((64, 60)) + 0.1 * (np.indices((64, 60)).sum(0) % 7 > 4)
    A = bioperf.Blur(np.eye(7) / 7, truth.shape)
    y = A(truth) + 0.005 * rng.standard_normal(truth.shape)
    wrong = np.eye(9) / 9
    exact, photograph = (
        bioperf.deblur(y, wrong, noise_std=0.005, target=CNN(), boundary=boundary)
        for boundary in ("periodic", "unknown")
    )
    bound = photograph.details["total_variation_bound"] / photograph.details["lower"].details["total_variation"]
    assert bound == pytest.approx(1)
    assert photograph.details["kappa"] == 0 and exact.details["kappa"] == 0.5 * exact.details["trust"]
