"""Boxes go where the pixels of their image go, and back; also through whole views of a policy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raykd.config.data import (
    ColorJitter,
    Data,
    Flip,
    Noise,
    PadCrop,
    RandomResizedCrop,
    Rotate,
    Shift,
    Splits,
    Views,
)
from raykd.config.sources import DigitsSource
from raykd.data import Dataset
from raykd.data.geometry import (
    Places,
    boxes_cut,
    boxes_moved,
    carried,
    followed_by,
    inverse,
    keeps_boxes,
    moved_by,
    turned,
    unmoved,
    visible_share,
    whole,
)
from raykd.data.samples import samples_of
from raykd.detection.layout import (
    BOX,
    CORNERS,
    CROWD,
    SCORE,
    label_rows,
    layout_for,
    true_boxes,
)
from raykd.detection.structured import candidates_in, packed_boxes, used
from raykd.pipeline.loading import fingerprints
from raykd.targets import codec
from raykd.tasks.detection.labels import moved_rows
from raykd.teachers.model import Recorded, host
from raykd.types import is_labelled

SIDE = 48
EXACT = (
    (Shift(pixels=9),),
    (PadCrop(padding=6),),
    (Flip(),),
    (RandomResizedCrop(scale=(0.3, 1.0)),),
    (RandomResizedCrop(scale=(0.5, 1.0)), Flip(), PadCrop(padding=4), Noise(std=0.01)),
)


def named(policy):
    return "+".join(step.type for step in policy)


def drawn(count, seed=0, *, size=SIDE):
    random = np.random.default_rng(seed)
    corner = random.random((count, 2)) * size * 0.7
    return np.concatenate([corner, corner + random.random((count, 2)) * size * 0.3 + 0.5], axis=1)


def one(x, y, **stretched):
    return moved_by(np.array([float(x)]), np.array([float(y)]), **stretched)


def maps():
    crop = one(-5 * 64 / 36, -7 * 64 / 24, wide=64 / 36, high=64 / 24)
    flip = one(64, 0, wide=-1.0)
    return {
        "nothing": unmoved(1),
        "shift": one(-3, 5),
        "flip": flip,
        "crop": crop,
        "quarter turn": turned(np.array([0.0]), np.array([1.0]), (64, 64)),
        "all": followed_by(followed_by(crop, flip), one(2, -4)),
    }


@pytest.mark.parametrize("name", maps())
def test_boxes_go_there_and_back(name):
    """Also boxes at the border, of one pixel, and as large as the image."""
    special = [[0, 0, 64, 64], [0, 0, 1, 1], [63, 63, 64, 64], [0, 10, 0.5, 11]]
    boxes, there = np.concatenate([drawn(200, size=64), special])[None], maps()[name]
    assert keeps_boxes(there).all()
    moved = boxes_moved(boxes, there)
    assert (moved[..., 2:] > moved[..., :2]).all()
    np.testing.assert_allclose(boxes_moved(moved, inverse(there)), boxes, rtol=0, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(sorted(maps())), min_size=1, max_size=5), st.integers(0, 99))
def test_any_maps_after_each_other_are_one_map(names, seed):
    boxes, whole = drawn(5, seed, size=64)[None], unmoved(1)
    step_by_step = boxes
    for name in names:
        whole = followed_by(whole, maps()[name])
        step_by_step = boxes_moved(step_by_step, maps()[name])
    np.testing.assert_allclose(boxes_moved(boxes, whole), step_by_step, rtol=1e-9, atol=1e-7)
    np.testing.assert_allclose(boxes_moved(step_by_step, inverse(whole)), boxes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(carried(whole, whole), unmoved(1), rtol=0, atol=1e-9)


def plain_moved(box, own):
    """Of the four corners by themselves."""
    corners = [(box[i], box[j]) for i in (0, 2) for j in (1, 3)]
    points = [[row[0] * x + row[1] * y + row[2] for row in own.tolist()] for x, y in corners]
    return [f(p[k] for p in points) for f in (min, max) for k in (0, 1)]


def test_each_image_moves_its_own_boxes_and_alone_to_the_same_bits():
    boxes = np.stack([drawn(4, seed) for seed in range(3)])
    each = np.concatenate(
        [maps()["flip"], one(1, 2), turned(np.array([0.8]), np.array([0.6]), (64, 64))]
    )
    moved = boxes_moved(boxes, each)
    for image in range(3):
        expected = [plain_moved(box, each[image]) for box in boxes[image].tolist()]
        np.testing.assert_allclose(moved[image], expected, rtol=1e-12, atol=1e-12)
        alone = boxes_moved(boxes[image : image + 1], each[image : image + 1])
        assert alone.tobytes() == moved[image : image + 1].tobytes()


def test_what_has_no_way_back_is_refused():
    turn = turned(np.array([0.8]), np.array([0.6]), (64, 64))
    assert not keeps_boxes(turn).any()
    box = np.array([[[10.0, 10.0, 20.0, 14.0]]])
    wide, high = np.diff(boxes_moved(box, turn)[0, 0].reshape(2, 2), axis=0)[0]
    assert wide * high > 40, "the box around the turned one"
    with pytest.raises(ValueError, match="quarter turn"):
        carried(turn, unmoved(1))
    with pytest.raises(ValueError, match="rank below 2"):
        inverse(np.zeros((1, 2, 3)))


def test_how_much_of_a_box_is_left_at_the_border():
    boxes = np.array(
        [[[-3.0, 2, 5, 10], [47.5, 3, 60, 9], [0, 0, 48, 48], [90, 1, 95, 3], [0, 0, 0.5, 0.5]]]
    )
    cut = boxes_cut(boxes, whole(1, (48, 48)))
    assert cut[0, 0].tolist() == [0, 2, 5, 10]
    assert visible_share(boxes, cut)[0].tolist() == [5 / 8, 0.0, 1.0, 0.0, 1.0]


def shifted(x, count=4):
    at_home = Places(unmoved(count), whole(count, (SIDE, SIDE)))
    return at_home.then(np.concatenate([one(x, 0)] * count), (SIDE, SIDE))


def test_what_one_step_has_cut_no_other_brings_back():
    back = shifted(-8).then(np.concatenate([one(8, 0)] * 4), (SIDE, SIDE))
    np.testing.assert_array_equal(back.maps_B23, unmoved(4))
    assert back.seen_B4.tolist() == [[8, 0, SIDE, SIDE]] * 4
    labels = label_rows([([0], [[0, 0, 10, 10]]), ([0], [[4, 0, 14, 10]]), ([], []), None])
    moved = moved_rows(labels, back, 0.25)
    assert moved[0, 2:].tolist() == [8, 0, 10, 10, CROWD]
    assert moved[1, 2:].tolist() == [8, 0, 14, 10, 1.0]


def test_labels_follow_and_what_is_hardly_seen_is_neither_right_nor_wrong():
    images = [
        ([0, 1, 2], [[0, 0, 10, 10], [20, 20, 30, 30], [2, 30, 12, 40]]),
        ([], []),
        None,
        ([1], [[38, 0, 48, 10]]),  # at the border already
    ]
    labels = label_rows(images, [[False, False, True], [], [], [False]])
    left = shifted(-8)  # of the first box a fifth is left, of the crowd two fifths
    moved = moved_rows(labels, left, 0.25)
    assert moved.dtype == np.float32
    assert is_labelled(moved).tolist() == [True, True, False, True], "unlabelled is not empty"
    assert moved[:, 0].tolist()[:2] == [3.0, 0.0]
    boxes = moved[0, 1:].reshape(3, BOX)
    assert boxes[:, CORNERS].tolist() == [[0, 0, 2, 10], [12, 20, 22, 30], [0, 30, 4, 40]]
    assert boxes[:, SCORE].tolist() == [CROWD, 1.0, CROWD]
    assert moved[3, 2:6].tolist() == [30, 0, 40, 10]
    gone = moved_rows(labels, shifted(-40), 0.25)
    assert gone[:2, 0].tolist() == [0.0, 0.0]
    assert not gone[:2].any()
    assert moved_rows(labels, left, 0.2)[0, 1 + SCORE] == 1.0
    assert not true_boxes(torch.from_numpy(moved)).present_BM[2].any()
    np.testing.assert_array_equal(moved_rows(labels, shifted(0), 1.0), labels)


def scenes(count=60):
    """Black images of one to three bright boxes each, whole pixels; some have no box, the last no label."""
    random = np.random.default_rng(3)
    images, labels = np.zeros((count, 1, SIDE, SIDE), np.uint8), []
    for image in images:
        sides = random.integers(8, 15, size=(int(random.integers(0, 4)), 2))
        firsts = [random.integers(0, SIDE - side + 1) for side in sides]
        boxes = [[*first, *(first + side)] for first, side in zip(firsts, sides, strict=True)]
        for x1, y1, x2, y2 in boxes:
            image[0, y1:y2, x1:x2] = 255
        labels.append(([0] * len(boxes), boxes))
    labels[-1] = None
    return Dataset(images, label_rows(labels), task="detection", classes=("box",))


def samples_for(*policy, **views):
    data = Data(source=DigitsSource(), splits=Splits(), views=Views(policy=policy, **views))
    return samples_of(scenes(), data, seed=0)


def inner(seen):
    """What lies more than two pixels within the border of what is seen: thinner rests of a box are left out."""
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    x1, y1, x2, y2 = seen.round().astype(int)
    mask[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2] = True
    return mask


@pytest.mark.parametrize("policy", EXACT, ids=named)
def test_a_views_labels_surround_its_pixels(policy):
    """All that is bright in a view lies in a box of its label, and a whole box is bright throughout."""
    samples = samples_for(*policy, visible=0.0)
    rows = np.flatnonzero(is_labelled(samples.all_labels))
    view_B = np.full(len(rows), 5)
    batch, seen = samples.batch(rows, view_B, labels="all"), samples.places(rows, view_B).seen_B4
    labels = true_boxes(batch.labels)
    assert int(labels.present_BM.sum()) > 40
    for row, image in enumerate(batch.inputs["inputs"][:, 0].numpy()):
        open_to_see = inner(seen[row])
        for x1, y1, x2, y2 in labels.boxes_BM4[row][labels.present_BM[row]].tolist():
            inside = image[round(y1 + 1) : round(y2 - 1), round(x1 + 1) : round(x2 - 1)]
            assert inside.min(initial=1) > 0.9
            open_to_see[max(0, int(y1) - 1) : int(y2) + 2, max(0, int(x1) - 1) : int(x2) + 2] = (
                False
            )
        assert image[open_to_see].max(initial=0) < 0.1


@pytest.mark.parametrize("policy", EXACT, ids=named)
def test_stored_boxes_go_through_every_view_and_back(policy):
    """What was found in one view is carried to the image, to another view, and back, to 1e-5 pixels."""
    samples = samples_for(*policy)
    rows = np.arange(len(samples))
    there = samples.affine(rows, np.full(len(rows), 2))
    assert np.abs(there - unmoved(len(rows))).max() > 0.5
    boxes = np.stack([drawn(3, row) for row in rows])
    moved = boxes_moved(boxes, there)
    np.testing.assert_allclose(boxes_moved(moved, inverse(there)), boxes, rtol=0, atol=1e-5)
    other = samples.affine(rows, np.full(len(rows), 7))
    np.testing.assert_allclose(
        boxes_moved(moved, carried(there, other)), boxes_moved(boxes, other), rtol=0, atol=1e-5
    )


def test_a_flip_of_the_image_flips_its_stored_boxes():
    samples = samples_for(Flip(probability=1.0))
    rows = np.arange(8)
    found = label_rows([([0, 0], [[1, 2, 11, 8], [30.5, 20, 46, 33.25]])] * 8)
    found[:, 1 + SCORE] = 0.7
    stored, view = np.full(8, -1), np.zeros(8, np.int64)
    moved = samples.carried(found, rows, stored, view)
    assert moved[0, 2:6].tolist() == [SIDE - 11, 2, SIDE - 1, 8]
    assert moved[0, 8:12].tolist() == [SIDE - 46, 20, SIDE - 30.5, 33.25]
    assert moved[0, 1 + SCORE] == np.float32(0.7), "its score stays"
    np.testing.assert_array_equal(samples.carried(moved, rows, view, stored), found)
    np.testing.assert_array_equal(samples.carried(moved, rows, view, view + 1), moved)
    labels = samples.batch(rows, 0, labels="all").labels.numpy()
    known = samples.carried(samples.all_labels[rows], rows, stored, view)
    np.testing.assert_array_equal(labels, known)


def test_boxes_of_a_turned_view_serve_that_view_alone():
    samples = samples_for(Rotate(degrees=8))
    rows, view = np.arange(4), np.zeros(4, np.int64)
    found = label_rows([([0], [[10, 12, 20, 30]])] * 4)
    turned_there = samples.carried(found, rows, view - 1, view)
    area = np.prod(turned_there[:, 4:6] - turned_there[:, 2:4], axis=1)
    assert ((area > 180) & (area < 260)).all()
    with pytest.raises(ValueError, match="serves it alone"):
        samples.carried(turned_there, rows, view, view - 1)


def test_labels_are_the_same_bits_beside_any_others_and_stay_where_nothing_moves():
    samples = samples_for(*EXACT[-1])
    rows, random = np.arange(len(samples)), np.random.default_rng(0)
    whole = samples.batch(rows, 1, labels="all").labels
    assert not torch.equal(whole[:-1], torch.from_numpy(samples.all_labels[:-1].copy()))
    for size in (1, 2, 7, 40):
        some = random.permutation(rows)[:size]
        labels = samples.batch(some, 1, labels="all").labels
        assert labels.numpy().tobytes() == whole[some].numpy().tobytes()
    mixed = samples.batch(rows, np.where(rows % 2, 1, -1), labels="all").labels.numpy()
    assert mixed[1::2].tobytes() == whole[1::2].numpy().tobytes()
    assert mixed[::2].tobytes() == samples.all_labels[::2].tobytes()
    still = samples_for(Noise(std=0.1), ColorJitter(saturation=0, hue=0))
    assert still.batch(rows, 1, labels="all").labels.numpy().tobytes() == still.all_labels.tobytes()
    assert not still.labels_move


def test_what_a_view_has_to_show_is_part_of_what_a_fit_is_known_by():
    def known(policy, visible):
        return fingerprints(samples_for(*policy, visible=visible))

    assert known((Flip(),), 0.25) != known((Flip(),), 0.5)
    assert known((Noise(),), 0.25) == known((Noise(),), 0.5), "nothing moves"


def recorded(samples):
    """A file of boxes that somebody found in the images themselves; the teacher knows the one class there is."""
    layout = layout_for(1, SIDE, SIDE, stride=4)
    corners = torch.from_numpy(np.stack([drawn(5, row) for row in range(len(samples))]))
    sure = torch.rand(len(samples), 5, 1, generator=torch.Generator().manual_seed(0)).double()
    sure[3] = 0.0  # nothing was found there
    rows = packed_boxes(corners, sure, layout)[:, : used(layout)].float()
    return Recorded(name="file", logits_NC=rows.numpy(), answers="value", width=layout.width)


def test_found_boxes_of_a_file_teach_the_views_that_move_them():
    """A teacher without a model says of a flipped image the flipped boxes that it has stored."""
    samples = samples_for(Flip(probability=1.0))
    teacher, rows = host(recorded(samples)), np.arange(12)

    def said(samples, view):
        arrays = teacher.score(samples, rows, np.full(len(rows), view))
        return candidates_in(codec.decode(arrays).values_NC)

    whole, flipped = said(samples, -1), said(samples, 0)
    there = whole.scores_BNC.amax(-1) > 0
    assert there.sum(1).tolist() == [5] * 3 + [0] + [5] * 8
    mirrored = (SIDE - whole.boxes_BN4)[..., [2, 1, 0, 3]]
    mirrored[..., [1, 3]] = whole.boxes_BN4[..., [1, 3]]
    torch.testing.assert_close(flipped.boxes_BN4[there], mirrored[there], rtol=0, atol=1e-5)
    assert torch.equal(flipped.scores_BNC, whole.scores_BNC)
    assert torch.equal(flipped.knows_BC, whole.knows_BC)


def test_found_boxes_that_a_view_hardly_shows_are_left_out_of_it():
    samples = samples_for(RandomResizedCrop(scale=(0.2, 0.3)))
    teacher, rows = host(recorded(samples)), np.arange(40)
    view = np.zeros(len(rows), np.int64)
    answers = codec.decode(teacher.score(samples, rows, view)).values_NC
    found, places = candidates_in(answers), samples.places(rows, view)
    whole = candidates_in(codec.decode(teacher.score(samples, rows, view - 1)).values_NC)
    counts = []
    for row in range(len(rows)):
        moved = boxes_moved(whole.boxes_BN4[row : row + 1].numpy(), places.maps_B23[row : row + 1])
        cut = boxes_cut(moved, places.seen_B4[row : row + 1])
        kept = (visible_share(moved, cut)[0] >= 0.25) & (whole.scores_BNC[row, :, 0].numpy() > 0)
        expected, count = cut[0][kept], int(kept.sum())
        np.testing.assert_allclose(found.boxes_BN4[row, :count], expected, rtol=0, atol=1e-4)
        assert torch.equal(
            found.scores_BNC[row, :count], whole.scores_BNC[row][torch.from_numpy(kept)]
        )
        assert not found.scores_BNC[row, count:].any()
        counts.append(count)
    assert 0 < np.mean(counts) < 4
    alone = codec.decode(teacher.score(samples, rows[7:8], view[:1])).values_NC
    assert torch.equal(alone[0], answers[7])
    wider = replace(samples, visible=0.9)
    assert wider.view_key != samples.view_key, "answers that are stored are others"
