"""The projector has the published size, and the prompt has room for exactly its output."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.model.files.layout import slots_for
from pipeline.model.network.projector import Projector


def test_full_size_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        projector = Projector(input_dim=768, hidden=1280, subsample=8, output_dim=2816, final_norm=False)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 19_341_056


def test_a_30_s_window_takes_188_slots() -> None:
    assert slots_for(1500, 8) == 188  # 1500 -> 750 -> 375 -> 188


@settings(derandomize=True, deadline=None, max_examples=60)
@given(frames=st.integers(1, 200), power=st.integers(0, 4))
def test_slots_for_is_what_the_convolutions_return(frames: int, power: int) -> None:
    projector = Projector(input_dim=4, hidden=4, subsample=2**power, output_dim=6, final_norm=True)
    assert projector(torch.zeros(1, frames, 4)).shape == (1, slots_for(frames, 2**power), 6)


@pytest.mark.parametrize("subsample", [0, 3, 12, -8])
def test_a_subsample_that_is_no_power_of_two_is_refused(subsample: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        Projector(input_dim=4, hidden=4, subsample=subsample, output_dim=6, final_norm=False)


def test_final_norm_gives_every_vector_mean_0_and_variance_1() -> None:
    torch.manual_seed(0)
    vectors = Projector(input_dim=8, hidden=8, subsample=2, output_dim=64, final_norm=True)(torch.randn(3, 10, 8) * 50)
    torch.testing.assert_close(vectors.mean(-1), torch.zeros(3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors.var(-1, correction=0), torch.ones(3, 5), atol=1e-3, rtol=0)
    bare = Projector(input_dim=8, hidden=8, subsample=2, output_dim=64, final_norm=False)(torch.randn(3, 10, 8) * 50)
    assert float((bare.detach().var(-1, correction=0) - 1).abs().max()) > 0.1


def test_every_slot_depends_on_its_own_time() -> None:
    """Kernel 3, stride 2, three times: slot s depends on the frames 8 s - 7 to 8 s + 7."""
    torch.manual_seed(0)
    projector = Projector(input_dim=4, hidden=16, subsample=8, output_dim=8, final_norm=False)
    frames = torch.randn(1, 160, 4)
    changed = frames.clone()
    changed[0, 80] += 10.0  # the middle of slot 10
    differs = (projector(frames) != projector(changed)).any(-1)[0].nonzero()[:, 0].tolist()
    assert differs == [10]
    changed = frames.clone()
    changed[0, 84] += 10.0  # between two slots
    assert (projector(frames) != projector(changed)).any(-1)[0].nonzero()[:, 0].tolist() == [10, 11]


def test_layers_are_linear_convolutions_linear_with_gelu_between() -> None:
    """Computed step by step from the weights by their names in a checkpoint."""
    torch.manual_seed(0)
    projector = Projector(input_dim=4, hidden=8, subsample=4, output_dim=6, final_norm=False)
    w = projector.state_dict()
    assert sorted(w) == sorted(
        f"{layer}.{kind}" for layer in ("input", "convs.0", "convs.1", "output") for kind in ("weight", "bias")
    )
    frames = torch.randn(2, 11, 4) * 3
    x = F.gelu(frames @ w["input.weight"].T + w["input.bias"]).transpose(1, 2)
    for conv in ("convs.0", "convs.1"):
        x = F.gelu(F.conv1d(x, w[f"{conv}.weight"], w[f"{conv}.bias"], stride=2, padding=1))
    expected = x.transpose(1, 2) @ w["output.weight"].T + w["output.bias"]
    torch.testing.assert_close(projector(frames), expected)
