"""Windows: what they cover, in which order, which tokens are sampled, and how seams are blended."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgit_cli.sampling.inpaint.fill import (
    cells_to_sample,
    feather_alpha,
    masked_cells,
    paste,
    seam_alpha,
)
from maskgit_cli.sampling.inpaint.windows import KEPT, Part, Rect, Window, plan_windows


def masked(height, width, *boxes):
    mask = torch.zeros(height, width, dtype=torch.bool)
    for x, y, wide, high in boxes:
        mask[y : y + high, x : x + wide] = True
    return mask


def windows(height, width, *boxes, side=None, resolution=16):
    return plan_windows([Part(masked(height, width, *boxes), -1)], resolution, side).windows


@pytest.mark.parametrize(
    ("size", "box", "window"),
    [
        ((16, 16), (0, 0, 1, 1), (0, 0, 16)),
        ((100, 100), (50, 50, 4, 4), (44, 44, 16)),  # as large as the model's resolution
        ((100, 100), (0, 90, 12, 10), (0, 76, 24)),  # twice the mask, at the corner
        ((100, 40), (10, 0, 30, 40), (5, 0, 40)),  # the image's shorter side
        ((8, 8), (2, 2, 4, 4), (0, 0, 8)),  # smaller than the model's resolution
        ((1, 1), (0, 0, 1, 1), (0, 0, 1)),
    ],
)
def test_a_small_mask_has_one_window(size, box, window):
    assert windows(size[1], size[0], box) == [window]


def test_a_mask_longer_than_the_image_is_high_has_several_windows():
    assert windows(40, 100, (10, 0, 90, 10)) == [(x, 0, 40) for x in (0, 20, 40, 60)]


def test_far_apart_parts_have_windows_of_their_own():
    boxes = (100, 600, 300, 200), (1700, 560, 200, 250)
    found = windows(1024, 2048, *boxes, resolution=256)
    assert found == [(1548, 435, 500), (0, 400, 600)]
    assert windows(1024, 2048, *boxes[::-1], resolution=256) == found  # the upper one first
    # Where one window of the model's resolution holds both with enough around them, there is one.
    assert windows(1024, 2048, (100, 600, 60, 20), (180, 560, 40, 25), resolution=256) == [(32, 462, 256)]


def test_a_chosen_window():
    assert windows(100, 100, (40, 40, 10, 10), side=30) == [(30, 30, 30)]
    assert windows(100, 100, (0, 0, 10, 10), (20, 20, 10, 10), side=30) == [(0, 0, 30)]
    assert len(windows(100, 100, (0, 0, 10, 10), (21, 20, 10, 10), side=30)) == 2
    assert len(windows(100, 100, (0, 0, 60, 10), side=30)) == 4


def test_borders_are_filled_outwards():
    # 40 pixels on the right of a image of 64 × 32, with windows of 32: half of each is context.
    part = Part(masked(32, 104, (64, 0, 40, 32)), -1, (Rect(0, 32, 64, 104),))
    plan = plan_windows([part], 32)
    assert plan.windows == [(48, 0, 32), (60, 0, 32), (72, 0, 32)]
    assert plan.owner[0].tolist() == [KEPT] * 64 + [0] * 16 + [1] * 12 + [2] * 12
    # On the left, the order is the other way round.
    part = Part(masked(32, 104, (0, 0, 40, 32)), -1, (Rect(0, 32, 0, 40),))
    assert [w.x for w in plan_windows([part], 32).windows] == [24, 12, 0]
    # A border of up to half a window needs one row of windows.
    part = Part(masked(64, 80, (64, 0, 16, 64)), -1, (Rect(0, 64, 64, 80),))
    assert {w.x for w in plan_windows([part], 32).windows} == {48}


def test_parts_follow_one_another_with_their_labels():
    parts = [Part(masked(50, 200, (150, 0, 10, 10)), 7), Part(masked(50, 200, (0, 0, 10, 10)), 3)]
    plan = plan_windows(parts, 20)
    assert (plan.windows, plan.labels) == ([(145, 0, 20), (0, 0, 20)], [7, 3])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_cover_exactly_what_is_masked(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    parts, taken = [], torch.zeros(height, width, dtype=torch.bool)
    for _ in range(data.draw(st.integers(1, 3))):
        y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
        mask = masked(height, width, (x, y, data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))))
        strips = ((Rect(0, height, 0, width),),)[: data.draw(st.integers(0, 1))]
        if (mask & ~taken).any():
            parts.append(Part(mask & ~taken, len(parts), *strips))
        taken |= mask
    side = data.draw(st.sampled_from([None, 1 + min(height, width) // 2]))
    plan = plan_windows(parts, data.draw(st.sampled_from([1, 5, 16])), side)
    assert torch.equal(plan.owner >= 0, taken)
    for number, (window, label) in enumerate(zip(plan.windows, plan.labels, strict=True)):
        assert min(window.x, window.y) >= 0
        assert window.x + window.side <= width
        assert window.y + window.side <= height
        mine = plan.owner == number
        assert mine.any()
        assert not (mine & ~parts[label].mask).any()
        mine[window.slices] = False
        assert not mine.any()


# --- tokens -----------------------------------------------------------------------------------------


def test_mask_rules():
    mask = masked(16, 16, (4, 0, 1, 1), (0, 4, 2, 4), (8, 8, 3, 4))
    # One pixel of cell (0, 1), half of cell (1, 0), three quarters of cell (2, 2).
    assert masked_cells(mask, 4, "any").nonzero().tolist() == [[0, 1], [1, 0], [2, 2]]
    assert masked_cells(mask, 4, "majority").nonzero().tolist() == [[2, 2]]
    # Seven pixels a side in four cells of 1.75: a cell's edge goes through pixels 1, 3 and 5.
    assert masked_cells(masked(7, 7, (0, 1, 1, 1)), 4, "any").nonzero().tolist() == [[0, 0], [1, 0]]
    assert masked_cells(masked(7, 7, (0, 0, 7, 7)), 4, "majority").all()


def test_a_window_sees_what_earlier_ones_filled_and_nothing_of_later_ones():
    part = Part(masked(16, 48, (16, 0, 32, 16)), -1, (Rect(0, 16, 16, 48),))
    plan = plan_windows([part], 16)
    assert [w.x for w in plan.windows] == [8, 16, 24, 32]
    assert cells_to_sample(plan, 0, 4, "any")[0].tolist() == [False, False, True, True]
    assert cells_to_sample(plan, 1, 4, "any")[0].tolist() == [False, False, True, True]
    # Two boxes in one window, each with a class of its own: the first does not see the second.
    boxes = [Part(masked(16, 16, (x, 0, 4, 4)), label) for x, label in ((0, 1), (8, 2))]
    plan = plan_windows(boxes, 16)
    assert cells_to_sample(plan, 0, 4, "any")[0].tolist() == [True, False, True, False]
    assert cells_to_sample(plan, 1, 4, "any")[0].tolist() == [False, False, True, False]


# --- pasting ----------------------------------------------------------------------------------------


def test_feathering_rises_inside_the_mask_alone():
    mask = masked(1, 9, (2, 0, 7, 1))
    # The image's own border is no edge.
    assert feather_alpha(mask, 3)[0].tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    assert feather_alpha(mask, 0)[0].tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1]


def test_windows_are_blended_with_earlier_ones_and_nowhere_else():
    owner = torch.tensor([[KEPT, 0, 0, 0, 0, 1, 1, 2, KEPT]])
    alpha = seam_alpha(owner, 1, 3)[0]
    assert alpha.tolist() == [0, 0, 0.25, 0.5, 0.75, 1, 1, 0, 0]
    assert seam_alpha(owner, 0, 3)[0].tolist() == [0, 1, 1, 1, 1, 0, 0, 0, 0]


def test_a_seam_does_not_cross_kept_pixels():
    owner = torch.full((3, 9), KEPT)
    owner[1, :3], owner[1, 6:] = 0, 1
    assert (seam_alpha(owner, 1, 8)[1, :3] == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_pixels_outside_stay_bit_for_bit(data):
    height, width = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    mask = masked(height, width, (x, y, data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60))))
    plan = plan_windows([Part(mask, -1)], 16)
    blend = feather_alpha(mask, data.draw(st.integers(0, 9)))
    result = image.clone()
    for number, window in enumerate(plan.windows):
        alpha = seam_alpha(plan.owner[window.slices], number, 2) * blend[window.slices]
        paste(result, torch.full((3, 16, 16), 255, dtype=torch.uint8), window, alpha)
    assert torch.equal(result[:, ~mask], image[:, ~mask])
    assert (result >= image).all()
    assert (result[:, blend == 1] == 255).all()


def test_smaller_content_is_scaled_to_its_window():
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    window = Window(4, 2, 16)
    paste(image, torch.full((3, 4, 4), 200, dtype=torch.uint8), window, torch.ones(16, 16))
    assert (image[:, 2:18, 4:20] == 200).all()
    assert int(image.sum()) == 3 * 200 * 16 * 16
