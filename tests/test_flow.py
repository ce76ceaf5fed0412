"""Laws of the straight line between image and noise."""

import torch

from library.flow import draw_sigma, interpolate, mse, velocity_target


def test_the_line_starts_at_the_image_and_ends_at_the_noise():
    image, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    x_t = interpolate(image, noise, torch.tensor([0.0, 1.0]))
    torch.testing.assert_close(x_t[0], image[0])
    torch.testing.assert_close(x_t[1], noise[1])


def test_the_velocity_is_the_lines_slope():
    image, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    sigma, step = torch.tensor([0.3, 0.6]), 0.01
    slope = (interpolate(image, noise, sigma + step) - interpolate(image, noise, sigma)) / step
    torch.testing.assert_close(slope, velocity_target(image, noise), rtol=1e-3, atol=1e-3)


def test_the_error_is_per_image_and_float32():
    prediction, goal = torch.zeros(2, 4, 8, 8).bfloat16(), torch.zeros(2, 4, 8, 8)
    goal[1] = 2.0
    error = mse(prediction, goal)
    assert error.dtype == torch.float32
    assert error.tolist() == [0.0, 4.0]


def test_a_shift_looks_more_at_noise_and_stays_between_image_and_noise():
    def draw(**options):
        return draw_sigma(512, "logit_normal", torch.Generator().manual_seed(0), **options)

    assert draw(shift=3.0).mean() > draw().mean() + 0.1
    for scheme in ("logit_normal", "mode", "uniform"):
        sigma = draw_sigma(512, scheme, torch.Generator().manual_seed(0), shift=3.0)
        assert sigma.shape == (512,) and sigma.min() >= 0 and sigma.max() <= 1


def test_the_same_generator_draws_the_same():
    one, two = (draw_sigma(5, "logit_normal", torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
